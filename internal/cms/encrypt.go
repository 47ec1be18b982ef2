package cms

import (
	"crypto/x509"
)

// Cipher is how Encrypt encrypts.
type Cipher int

const (
	// AES256GCM is AuthEnvelopedData with AES-256-GCM; RSA recipients with OAEP and SHA-256. Read by openssl cms.
	AES256GCM Cipher = iota
	// AES256CBC is EnvelopedData with AES-256-CBC as in RFC 8886; RSA recipients with PKCS #1 v1.5. Read by openssl
	// smime (RSA only) and cms. It has no integrity: use it only for devices that read nothing else.
	AES256CBC
)

// EncryptConfig configures Encrypt.
type EncryptConfig struct {
	// Recipients are certificates with RSA (2048 bits or more), P-256, P-384 or P-521 keys, 1 to 64. Their validity,
	// signature and usage are not looked at. Required.
	Recipients []*x509.Certificate
	// Cipher chooses the form, default AES256GCM.
	Cipher Cipher
	// KeyIdentifiers names recipients by subject key identifier in place of issuer and serial number.
	KeyIdentifiers bool
}

// Encrypt encrypts content and returns the message in DER.
func Encrypt(content []byte, cfg EncryptConfig) ([]byte, error) {
	return nil, ErrUnsupported
}

// EncodePEM wraps a message into PEM, with the label that every version of openssl reads for it: PKCS7 for
// EnvelopedData and SignedData, CMS for AuthEnvelopedData.
func EncodePEM(der []byte) []byte {
	return nil
}
