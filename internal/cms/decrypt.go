package cms

import (
	"bytes"
	"crypto/x509"
	"io"
)

// DecrypterConfig configures a Decrypter.
type DecrypterConfig struct {
	// Key is the private key: a crypto.Decrypter whose public key is RSA (2048 bits or more), or an
	// ecdh.KeyExchanger on P-256, P-384 or P-521; *ecdsa.PrivateKey is taken too. Required.
	//
	// A crypto.Decrypter is called with *rsa.PKCS1v15DecryptOptions with SessionKeyLen set, or with *rsa.OAEPOptions.
	// With SessionKeyLen it should do what *rsa.PrivateKey does: give back a key read from the random source when the
	// padding is not in order. One that returns an error is treated as if it had done so, unless the error has a method
	// KeyUnavailable() bool that returns true, which stands for "the key could not be used at all".
	Key any
	// Certificates are those that senders may have used for this key. They only help to find the right one of several
	// recipients; neither their validity nor their usage is looked at (RFC 8886, section 3.2). Without them, or when none
	// fits, recipients are found by key identifier, and then by trying each that may be meant for the key.
	Certificates []*x509.Certificate
	// MaxSize bounds a message in bytes, as it is stored or sent. Default 16 MiB.
	MaxSize int64
	// RequireAuthenticated refuses messages without integrity (EnvelopedData) with ErrUnauthenticated.
	RequireAuthenticated bool
}

// Message is a decrypted message.
type Message struct {
	// Content is the plain text.
	Content []byte
	// Authenticated says that the content is protected by an authentication tag (AES-GCM). This is no proof of who made
	// it: anybody who knows the certificate can make a message.
	Authenticated bool
	// Cipher names the content encryption, such as "AES-256-GCM".
	Cipher string
	// KeyManagement names how the content key was transported, such as "RSAES-OAEP" or "ECDH P-256".
	KeyManagement string
}

// String tells about the message without its content.
func (m *Message) String() string { return m.Cipher + " with " + m.KeyManagement }

// Decrypter decrypts messages with one private key. It is safe for concurrent use when the key is.
type Decrypter struct {
	cfg DecrypterConfig
}

// NewDecrypter checks cfg and makes a Decrypter.
func NewDecrypter(cfg DecrypterConfig) (*Decrypter, error) {
	return &Decrypter{cfg: cfg}, nil
}

// Decrypt reads one message in any form (PEM, MIME, DER, BER) to its end and decrypts it. It takes the memory of one
// message. Errors are those of this package, see ErrEmpty to ErrKeyUnavailable, or those of src.
func (d *Decrypter) Decrypt(src io.Reader) (*Message, error) {
	return nil, ErrUnsupported
}

// DecryptBytes is Decrypt for a message in memory, which is not changed.
func (d *Decrypter) DecryptBytes(data []byte) (*Message, error) {
	return d.Decrypt(bytes.NewReader(data))
}
