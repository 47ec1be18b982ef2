package jot

import (
	"crypto/ecdsa"
	"encoding/asn1"
	"fmt"
	"math/big"
)

// joseSignature turns an ASN.1 ECDSA signature into the fixed-length form of
// RFC 7518 section 3.4.
func joseSignature(pub *ecdsa.PublicKey, der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("the key returned a malformed ECDSA signature")
	}
	n := (pub.Curve.Params().BitSize + 7) / 8
	if sig.R.Sign() < 0 || sig.S.Sign() < 0 || sig.R.BitLen() > n*8 || sig.S.BitLen() > n*8 {
		return nil, fmt.Errorf("the key returned an ECDSA signature out of range")
	}
	out := make([]byte, 2*n)
	sig.R.FillBytes(out[:n])
	sig.S.FillBytes(out[n:])
	return out, nil
}
