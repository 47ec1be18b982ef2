package cms

import (
	"crypto/x509"
	"time"
)

// VerifyConfig configures Verify.
type VerifyConfig struct {
	// Roots are trusted. A signer's own certificate may be among them: that pins the signer. Required.
	Roots *x509.CertPool
	// Certificates are further certificates to find the signer and its chain, beside those in the message.
	Certificates []*x509.Certificate
	// CurrentTime is when certificates have to be valid. The zero value means now.
	CurrentTime time.Time
	// MaxSize bounds the message in bytes. Default 16 MiB.
	MaxSize int64
}

// Signed is a signed message whose signature is valid and whose signer is trusted.
type Signed struct {
	// Content is what was signed.
	Content []byte
	// Signer is the certificate of the signer that was found trusted first.
	Signer *x509.Certificate
	// Chains lead from Signer to Roots.
	Chains [][]*x509.Certificate
	// Attributes are the signed attributes of that signer, content type and digest left out. No type stands in it twice.
	Attributes []Attribute
}

// Verify checks a SignedData that holds its content, in any form (PEM, MIME, DER, BER). It fails with ErrSignature
// when no signature is valid, and with ErrUntrusted when none of the valid ones leads to Roots. SHA-256, SHA-384 and
// SHA-512 are taken, with RSA (PKCS #1 v1.5 and PSS), ECDSA and Ed25519; signed attributes have to be there.
func Verify(data []byte, cfg VerifyConfig) (*Signed, error) {
	return nil, ErrUnsupported
}
