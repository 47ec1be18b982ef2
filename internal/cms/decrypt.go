package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
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

// Decrypter decrypts messages with one private key. It is safe for concurrent use when the key is.
type Decrypter struct {
	cfg    DecrypterConfig
	rsaKey crypto.Decrypter  // one of these two is set
	ecKey  ecdh.KeyExchanger //
	ids    [][]byte          // subject key identifiers that the public key may have
	secret [32]byte          // of the implicit rejection, see rejectedKey
}

// NewDecrypter checks cfg and makes a Decrypter.
func NewDecrypter(cfg DecrypterConfig) (*Decrypter, error) {
	d := &Decrypter{cfg: cfg}
	var pub any
	switch key := cfg.Key.(type) {
	case nil:
		return nil, errors.New("cms: decrypter: no key")
	case *ecdsa.PrivateKey:
		ec, err := key.ECDH()
		if err != nil {
			return nil, fmt.Errorf("cms: decrypter: %w", err)
		}
		d.ecKey, pub = ec, ec.PublicKey()
	case ecdh.KeyExchanger:
		d.ecKey, pub = key, key.PublicKey()
	case crypto.Decrypter:
		d.rsaKey, pub = key, key.Public()
	default:
		return nil, fmt.Errorf("cms: decrypter: a key of type %T can neither decrypt nor exchange keys", cfg.Key)
	}
	if err := checkPublicKey(pub); err != nil {
		return nil, fmt.Errorf("cms: decrypter: %w", err)
	}
	var err error
	if d.ids, err = keyIdentifiers(pub); err != nil {
		return nil, fmt.Errorf("cms: decrypter: %w", err)
	}
	d.cfg.Certificates = slices.Clone(cfg.Certificates)
	if slices.Contains(d.cfg.Certificates, nil) {
		return nil, errors.New("cms: decrypter: a certificate is nil")
	}
	_, err = rand.Read(d.secret[:])
	return d, err
}

// checkPublicKey takes the keys that a message can be encrypted to.
func checkPublicKey(pub any) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
		return nil
	case *ecdh.PublicKey:
		if curveName(k.Curve()) == "" {
			return fmt.Errorf("key on %v, want P-256, P-384 or P-521", k.Curve())
		}
		return nil
	}
	return fmt.Errorf("public key of type %T, want RSA or EC", pub)
}

// Decrypt reads one message in any form (PEM, MIME, DER, BER) to its end and decrypts it. It takes the memory of one
// message. Errors are those of this package, see ErrEmpty to ErrKeyUnavailable, or those of src.
func (d *Decrypter) Decrypt(src io.Reader) (*Message, error) {
	buf, err := load(src, d.cfg.MaxSize, KindEncrypted)
	if err != nil {
		return nil, err
	}
	return d.decrypt(buf, true)
}

// DecryptBytes is Decrypt for a message in memory, which is not changed.
func (d *Decrypter) DecryptBytes(data []byte) (*Message, error) {
	if kind, arm := detect(data); kind != KindEncrypted || arm != armorNone {
		return d.Decrypt(bytes.NewReader(data))
	}
	limit := d.cfg.MaxSize
	if limit <= 0 {
		limit = DefaultMaxSize
	}
	if int64(len(data)) > limit {
		return nil, ErrTooLarge
	}
	return d.decrypt(data, false)
}

// decrypt has two halves. Up to the choice of candidates only public facts are looked at, and errors say what is
// wrong. Afterwards the private key is used, and there is one error for everything.
func (d *Decrypter) decrypt(buf []byte, own bool) (*Message, error) {
	e, err := parseEnvelope(buf, own)
	if err != nil {
		return nil, err
	}
	if d.cfg.RequireAuthenticated && e.mac == nil {
		return nil, ErrUnauthenticated
	}
	candidates, err := d.candidates(e.recipients)
	if err != nil {
		return nil, err
	}
	keys, err := d.contentKeys(candidates, e.alg.keyLen)
	if err != nil {
		return nil, err
	}
	defer clearKeys(keys)
	content, used, err := e.openAny(keys, own)
	if err != nil {
		return nil, err
	}
	return &Message{
		Content:       content,
		Authenticated: e.mac != nil,
		Cipher:        e.alg.name,
		KeyManagement: d.keyManagement(candidates[used]),
	}, nil
}

func (d *Decrypter) keyManagement(used recipient) string {
	if d.ecKey != nil {
		return "ECDH " + curveName(d.ecKey.Curve())
	}
	return used.name
}

// candidates chooses the recipients that are tried: those that name one of the certificates or the public key, or else
// all of the right kind, since a directory may have wrapped the key into a certificate that this side never saw.
func (d *Decrypter) candidates(all []recipient) ([]recipient, error) {
	var named, possible []recipient
	for _, r := range all {
		if !d.fits(r) {
			continue
		}
		possible = append(possible, r)
		if d.named(r.id) {
			named = append(named, r)
		}
	}
	if len(named) > 0 {
		possible = named
	}
	if len(possible) == 0 {
		return nil, fmt.Errorf("%w: none of its %d recipients has a key of this kind", ErrNotRecipient, len(all))
	}
	usable := slices.DeleteFunc(slices.Clone(possible), func(r recipient) bool { return r.problem != nil })
	if len(usable) == 0 {
		return nil, possible[0].problem
	}
	if len(usable) > maxTries {
		return nil, fmt.Errorf("%w: %d recipients may be meant and none is named by a known certificate", ErrUnsupported,
			len(usable))
	}
	return usable, nil
}

// fits reports whether the recipient may be meant for the key, by its kind and sizes.
func (d *Decrypter) fits(r recipient) bool {
	if d.rsaKey != nil {
		pub, ok := d.rsaKey.Public().(*rsa.PublicKey)
		return ok && r.kind == kindTransport && len(r.wrapped) <= pub.Size()
	}
	if r.kind != kindAgreement {
		return false
	}
	if r.problem != nil {
		return true
	}
	if r.curve != nil && r.curve != d.ecKey.Curve() {
		return false
	}
	// This also tells the curves apart, and refuses points that are not on it (RFC 5753, section 8).
	_, err := d.ecKey.Curve().NewPublicKey(r.point)
	return err == nil
}

func (d *Decrypter) named(id recipientID) bool {
	if slices.ContainsFunc(d.cfg.Certificates, id.names) {
		return true
	}
	return id.ski != nil && slices.ContainsFunc(d.ids, func(ski []byte) bool { return bytes.Equal(ski, id.ski) })
}
