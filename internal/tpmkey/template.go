package tpmkey

import (
	"crypto/elliptic"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Use is what a key is for. A key has one use, so that a signature can never be
// turned into a decryption.
type Use uint8

// The uses.
const (
	// Sign keys make signatures.
	Sign Use = iota + 1
	// Decrypt keys decrypt (RSA) or agree on secrets (ECDH).
	Decrypt
)

// Template says what key to make. Make one with [RSA] or [ECC].
type Template struct {
	name   string
	public tpm2.TPMTPublic
	err    error
}

// String names the kind of key, such as "RSA 2048" or "ECC P-256".
func (t Template) String() string { return t.name }

// RSA is a template for an RSA key with the public exponent 65537. bits is 2048,
// 3072 or 4096; many TPMs have only 2048.
func RSA(bits int, use Use) Template {
	t := Template{name: fmt.Sprintf("RSA %d", bits)}
	if bits != 2048 && bits != 3072 && bits != 4096 {
		t.err = fmt.Errorf("%w: a TPM makes RSA keys of 2048, 3072 or 4096 bits, not %d", ErrUnsupported, bits)
		return t
	}
	t.public = tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			KeyBits: tpm2.TPMKeyBits(bits),
		}),
	}
	return t.finish(use)
}

// ECC is a template for a key on one of the curves P-256, P-384 and P-521; many
// TPMs lack the last.
func ECC(curve elliptic.Curve, use Use) Template {
	var id tpm2.TPMECCCurve
	t := Template{name: "ECC " + curve.Params().Name}
	switch curve {
	case elliptic.P256():
		id = tpm2.TPMECCNistP256
	case elliptic.P384():
		id = tpm2.TPMECCNistP384
	case elliptic.P521():
		id = tpm2.TPMECCNistP521
	default:
		t.err = fmt.Errorf("%w: curve %q", ErrUnsupported, curve.Params().Name)
		return t
	}
	t.public = tpm2.TPMTPublic{
		Type:       tpm2.TPMAlgECC,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: id}),
	}
	return t.finish(use)
}

func (t Template) finish(use Use) Template {
	t.public.NameAlg = tpm2.TPMAlgSHA256
	t.public.ObjectAttributes = tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		// The authorization value is empty: there is nothing to guess, and a
		// lockout that others caused must not stop the router.
		NoDA:        true,
		SignEncrypt: use == Sign,
		Decrypt:     use == Decrypt,
	}
	if use != Sign && use != Decrypt {
		t.err = fmt.Errorf("%w: use %d", ErrUnsupported, use)
	}
	return t
}
