package repo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strconv"
)

// PayloadType is the DSSE type of a manifest. It is part of what is signed, so
// a signature for another purpose is never taken for one of a manifest.
const PayloadType = "application/vnd.mooring.image-manifest.v1+json"

// envelope is a DSSE envelope (Dead Simple Signing Envelope, version 1).
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// preAuth is DSSE's pre-authentication encoding: the bytes that are signed.
func preAuth(payload []byte) []byte {
	out := []byte("DSSEv1 " + strconv.Itoa(len(PayloadType)) + " " + PayloadType + " " + strconv.Itoa(len(payload)) + " ")
	return append(out, payload...)
}

// Verifier holds the trusted keys. It is immutable and safe for concurrent use.
type Verifier struct {
	keys map[string]crypto.PublicKey
}

// NewVerifier returns a verifier that trusts each of the keys alone. A key is
// an [ed25519.PublicKey] or an [*ecdsa.PublicKey] on P-256.
func NewVerifier(keys ...crypto.PublicKey) (*Verifier, error) {
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("repo: trusted keys: want 1 to %d, not %d", maxKeys, len(keys))
	}
	v := &Verifier{keys: make(map[string]crypto.PublicKey, len(keys))}
	for i, k := range keys {
		id, err := keyID(k)
		if err != nil {
			return nil, fmt.Errorf("repo: trusted key %d: %w", i+1, err)
		}
		v.keys[id] = k
	}
	return v, nil
}

// Verify checks the signature first, and only then reads what was signed. It
// does not look at the clock: see [Manifest.CheckExpiry].
func (v *Verifier) Verify(data []byte) (*Manifest, error) {
	if len(data) > maxEnvelopeBytes {
		return nil, fmt.Errorf("repo: envelope: %w: more than %d bytes", ErrMalformed, maxEnvelopeBytes)
	}
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return nil, fmt.Errorf("repo: envelope: %w: %.200s", ErrMalformed, err.Error())
	}
	switch {
	case e.PayloadType != PayloadType:
		return nil, fmt.Errorf("repo: envelope: %w: payload type %.80q", ErrMalformed, e.PayloadType)
	case len(e.Payload) > maxPayloadBytes:
		return nil, fmt.Errorf("repo: envelope: %w: more than %d bytes of payload", ErrMalformed, maxPayloadBytes)
	case len(e.Signatures) > maxSignatures:
		return nil, fmt.Errorf("repo: envelope: %w: more than %d signatures", ErrMalformed, maxSignatures)
	}
	if !v.signed(e) {
		return nil, fmt.Errorf("repo: manifest: %w", ErrNotSigned)
	}
	var m Manifest
	if err := decodeStrict(e.Payload, &m); err != nil {
		return nil, fmt.Errorf("repo: manifest: %w: %.200s", ErrMalformed, err.Error())
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	m.envelope = append([]byte(nil), data...)
	return &m, nil
}

// Peek reads the manifest of an envelope without looking at the signature. It
// is for a node that hands on what it holds; a client that decides what to
// accept uses [Verifier.Verify].
func Peek(data []byte) (*Manifest, error) {
	if len(data) > maxEnvelopeBytes {
		return nil, fmt.Errorf("repo: envelope: %w: more than %d bytes", ErrMalformed, maxEnvelopeBytes)
	}
	var e envelope
	var m Manifest
	if err := decodeStrict(data, &e); err != nil {
		return nil, fmt.Errorf("repo: envelope: %w: %.200s", ErrMalformed, err.Error())
	}
	if err := decodeStrict(e.Payload, &m); err != nil {
		return nil, fmt.Errorf("repo: manifest: %w: %.200s", ErrMalformed, err.Error())
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	m.envelope = append([]byte(nil), data...)
	return &m, nil
}

func (v *Verifier) signed(e envelope) bool {
	msg := preAuth(e.Payload)
	for _, s := range e.Signatures {
		switch k := v.keys[s.KeyID].(type) {
		case ed25519.PublicKey:
			if ed25519.Verify(k, msg, s.Sig) {
				return true
			}
		case *ecdsa.PublicKey:
			sum := sha256.Sum256(msg)
			if ecdsa.VerifyASN1(k, sum[:], s.Sig) {
				return true
			}
		}
	}
	return false
}

// sign wraps the manifest in a signed envelope and keeps it in m.
func (m *Manifest) sign(key crypto.Signer) error {
	if err := m.check(); err != nil {
		return err
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return err
	}
	msg, opts := preAuth(payload), crypto.Hash(0)
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(msg)
		msg, opts = sum[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, msg, opts)
	if err != nil {
		return fmt.Errorf("repo: signing the manifest of %q: %w", m.Version, err)
	}
	m.envelope, err = json.Marshal(envelope{PayloadType: PayloadType, Payload: payload, Signatures: []signature{{KeyID: id, Sig: sig}}})
	return err
}

// keyID is the SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal.
func keyID(k crypto.PublicKey) (string, error) {
	switch k := k.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return "", fmt.Errorf("ed25519 key of %d bytes", len(k))
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return "", fmt.Errorf("ecdsa key on %s: only P-256 is taken", k.Curve.Params().Name)
		}
	default:
		return "", fmt.Errorf("%T: only Ed25519 and ECDSA P-256 are taken", k)
	}
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// ParsePublicKey reads a PEM public key as `openssl pkey -pubout` writes it.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	block, err := onePEM(data, "PUBLIC KEY", "a private key does not belong here; make the public one with: openssl pkey -in KEY -pubout")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKIXPublicKey(block)
	if err != nil {
		return nil, fmt.Errorf("repo: public key: %w", err)
	}
	if _, err := keyID(k); err != nil {
		return nil, fmt.Errorf("repo: public key: %w", err)
	}
	return k, nil
}

// ParsePrivateKey reads a PEM private key as `openssl genpkey` writes it
// (PKCS #8, not encrypted).
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	block, err := onePEM(data, "PRIVATE KEY", "make one with: openssl genpkey -algorithm ed25519 -out KEY")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(block)
	if err != nil {
		// The cause is left out: it may quote what it could not parse.
		return nil, fmt.Errorf("repo: private key: not PKCS #8")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("repo: private key: %T cannot sign", k)
	}
	if _, err := keyID(s.Public()); err != nil {
		return nil, fmt.Errorf("repo: private key: %w", err)
	}
	return s, nil
}

// onePEM skips blocks such as "EC PARAMETERS" that openssl may put first.
func onePEM(data []byte, want, hint string) ([]byte, error) {
	if len(data) > maxPEMBytes {
		return nil, fmt.Errorf("repo: key: more than %d bytes", maxPEMBytes)
	}
	found := ""
	for {
		var b *pem.Block
		b, data = pem.Decode(data)
		if b == nil {
			break
		}
		if b.Type == want {
			return b.Bytes, nil
		}
		found = b.Type
	}
	if found == "" {
		return nil, fmt.Errorf("repo: key: no PEM block %q: %s", want, hint)
	}
	return nil, fmt.Errorf("repo: key: PEM block %.40q instead of %q: %s", found, want, hint)
}
