package cms

import (
	"crypto"
	"crypto/x509"
	"time"
)

// Attribute is a signed attribute (RFC 5652, section 5.3) with its one value.
type Attribute struct {
	Type  x509.OID
	Value []byte // DER
}

// SignConfig configures Sign.
type SignConfig struct {
	// Key signs: RSA (2048 bits or more), ECDSA on P-256, P-384 or P-521, or Ed25519. Required.
	Key crypto.Signer
	// Certificate is the signer's, with the public key of Key. Required.
	Certificate *x509.Certificate
	// Chain holds further certificates to put into the message, up to 15.
	Chain []*x509.Certificate
	// Attributes are signed beside content type and digest.
	Attributes []Attribute
	// SigningTime is a signed attribute when not zero. It is what the signer says, not a proof.
	SigningTime time.Time
}

// Sign makes a SignedData in DER that holds content and one signature over it and the attributes.
func Sign(content []byte, cfg SignConfig) ([]byte, error) {
	return nil, ErrUnsupported
}
