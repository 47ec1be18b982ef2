// Package jot makes, splits and checks onboarding tokens: JSON Web Tokens
// (RFC 7519) signed by the conductor's key, with the algorithm pinned to the
// key's type (RFC 8725 section 3.1).
package jot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MaxToken bounds a token before anything is split or decoded.
	MaxToken = 64 << 10
	// MaxInitialConfig bounds the opaque configuration inside a token.
	MaxInitialConfig = 16 << 10

	maxAssets    = 2
	maxAddresses = 16
	maxField     = 260
	secretLen    = 48
)

// Claims is a token's payload.
type Claims struct {
	PublicCert    []byte           `json:"conductor-public-cert"`
	CACert        []byte           `json:"conductor-ca-cert"`
	Secret        []byte           `json:"secret"`
	AssetIDs      []string         `json:"asset-id"`
	Router        string           `json:"router"`
	Addresses     []string         `json:"conductor-addresses,omitempty"`
	InitialConfig []byte           `json:"initial-config,omitempty"`
	ExpiresAt     *jwt.NumericDate `json:"exp"`
	IssuedAt      *jwt.NumericDate `json:"iat"`
	ID            string           `json:"jti"`
}

// The methods below implement [jwt.Claims].

// GetExpirationTime returns exp.
func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.ExpiresAt, nil }

// GetIssuedAt returns iat.
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error) { return c.IssuedAt, nil }

// GetNotBefore returns nothing: tokens are valid from the start.
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer returns nothing: the certificate says who issued the token.
func (c *Claims) GetIssuer() (string, error) { return "", nil }

// GetSubject returns nothing.
func (c *Claims) GetSubject() (string, error) { return "", nil }

// GetAudience returns nothing.
func (c *Claims) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }

func (c *Claims) check() error {
	switch {
	case len(c.PublicCert) == 0:
		return errors.New("claim conductor-public-cert is missing")
	case len(c.CACert) == 0:
		return errors.New("claim conductor-ca-cert is missing")
	case len(c.Secret) != secretLen:
		return fmt.Errorf("claim secret has %d bytes, not %d", len(c.Secret), secretLen)
	case len(c.AssetIDs) == 0 || len(c.AssetIDs) > maxAssets:
		return fmt.Errorf("claim asset-id has %d entries, not 1..%d", len(c.AssetIDs), maxAssets)
	case c.Router == "" || len(c.Router) > maxField:
		return errors.New("claim router is missing or too long")
	case c.ExpiresAt == nil || c.IssuedAt == nil:
		return errors.New("claim exp or iat is missing")
	case len(c.Addresses) > maxAddresses:
		return fmt.Errorf("claim conductor-addresses has %d entries, the most is %d", len(c.Addresses), maxAddresses)
	case len(c.InitialConfig) > MaxInitialConfig:
		return fmt.Errorf("claim initial-config has %d bytes, the most is %d", len(c.InitialConfig), MaxInitialConfig)
	}
	for _, s := range append(c.AssetIDs, c.Addresses...) {
		if s == "" || len(s) > maxField {
			return errors.New("an asset-id or address is empty or too long")
		}
	}
	return nil
}

// methods are the algorithms that a key may have signed with; the first one is
// used for signing.
func methods(pub crypto.PublicKey) ([]string, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return []string{"PS256", "RS256"}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []string{"ES256"}, nil
		case elliptic.P384():
			return []string{"ES384"}, nil
		}
	}
	return nil, fmt.Errorf("a %T signs no tokens: RSA, P-256 or P-384 does", pub)
}

// Sign makes a token.
func Sign(c *Claims, key crypto.Signer) (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	algs, err := methods(key.Public())
	if err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(signingMethod{jwt.GetSigningMethod(algs[0])}, c)
	s, err := t.SignedString(key)
	if err != nil {
		return "", err
	}
	if len(s) > MaxToken {
		return "", fmt.Errorf("the token has %d bytes, the most is %d", len(s), MaxToken)
	}
	return s, nil
}

// signingMethod signs with any [crypto.Signer]; the library's own methods want
// the private key itself, which a TPM or an HSM does not give away.
type signingMethod struct{ jwt.SigningMethod }

// Sign implements [jwt.SigningMethod].
func (m signingMethod) Sign(signingString string, key any) ([]byte, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, jwt.ErrInvalidKeyType
	}
	hash, opts := crypto.SHA256, crypto.SignerOpts(crypto.SHA256)
	switch m.Alg() {
	case "PS256":
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	case "ES384":
		hash, opts = crypto.SHA384, crypto.SHA384
	}
	h := hash.New()
	h.Write([]byte(signingString))
	sig, err := signer.Sign(rand.Reader, h.Sum(nil), opts)
	if err != nil {
		return nil, err
	}
	if pub, ok := signer.Public().(*ecdsa.PublicKey); ok {
		return joseSignature(pub, sig)
	}
	return sig, nil
}

// Token is a split token.
type Token struct {
	// Header is the decoded header; Before and After are the decoded payload
	// around the base64 of the secret.
	Header, Before, After, Signature []byte
	Claims                           *Claims
	// Cert and CA are the parsed certificates.
	Cert, CA *x509.Certificate
}

// Parse splits a token and checks that it is whole: the claims are there and
// the certificate inside it verifies its signature. Whether it is valid is for
// the conductor to say.
func Parse(s string) (*Token, error) {
	if len(s) > MaxToken {
		return nil, fmt.Errorf("the token has %d bytes, the most is %d", len(s), MaxToken)
	}
	if strings.Count(s, ".") != 2 {
		return nil, errors.New("the token does not have three parts")
	}
	parts := strings.Split(s, ".")
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil {
			return nil, fmt.Errorf("part %d of the token is not base64url", i+1)
		}
		raw[i] = b
	}
	c := new(Claims)
	if err := json.Unmarshal(raw[1], c); err != nil {
		return nil, errors.New("the token's payload is not the JSON that it should be")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	t := &Token{Header: raw[0], Signature: raw[2], Claims: c}
	var err error
	if t.Cert, err = x509.ParseCertificate(c.PublicCert); err != nil {
		return nil, errors.New("claim conductor-public-cert is not a certificate")
	}
	if t.CA, err = x509.ParseCertificate(c.CACert); err != nil {
		return nil, errors.New("claim conductor-ca-cert is not a certificate")
	}
	enc := []byte(base64.StdEncoding.EncodeToString(c.Secret))
	var ok bool
	if t.Before, t.After, ok = bytes.Cut(raw[1], enc); !ok || bytes.Contains(t.After, enc) {
		return nil, errors.New("the token's secret is not written as base64 in one place")
	}
	if err := verifySignature(s, t.Header, t.Signature, t.Cert.PublicKey); err != nil {
		return nil, fmt.Errorf("the token was altered or cut: %w", err)
	}
	return t, nil
}

// Join puts a secret into a split token.
func Join(header, before, after, signature []byte, secret string) string {
	enc := base64.RawURLEncoding
	var b strings.Builder
	b.Grow(enc.EncodedLen(len(header)) + enc.EncodedLen(len(before)+len(after)+64) + enc.EncodedLen(len(signature)) + 2)
	part := func(chunks ...[]byte) {
		w := base64.NewEncoder(enc, &b)
		for _, c := range chunks {
			// A strings.Builder takes everything.
			_, _ = w.Write(c)
		}
		_ = w.Close()
	}
	part(header)
	b.WriteByte('.')
	var secret64 [64]byte
	part(before, base64.StdEncoding.AppendEncode(secret64[:0], []byte(secret)), after)
	b.WriteByte('.')
	part(signature)
	return b.String()
}

// verifySignature checks the signature of a compact token whose decoded header
// is given. Nothing of the payload is looked at.
func verifySignature(compact string, header, signature []byte, pub crypto.PublicKey) error {
	algs, err := methods(pub)
	if err != nil {
		return err
	}
	// Everything but these two members is rejected: "crit" (RFC 7515 section
	// 4.1.11) and the headers that bring a key of their own among them.
	var h struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
	}
	d := json.NewDecoder(bytes.NewReader(header))
	d.DisallowUnknownFields()
	err = d.Decode(&h)
	if err == nil {
		// Decoder.More would take a closing bracket for the end.
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("data after the header")
		}
	}
	if err != nil || !slices.Contains(algs, h.Alg) {
		return errors.New("its header is not one of this conductor's")
	}
	signed := compact[:strings.LastIndexByte(compact, '.')]
	if err := jwt.GetSigningMethod(h.Alg).Verify(signed, signature, pub); err != nil {
		return errors.New("its signature does not verify")
	}
	return nil
}

// ErrExpired says that exp has passed.
var ErrExpired = errors.New("the token has expired")

// Verifier checks the tokens of a conductor.
type Verifier struct {
	pub    crypto.PublicKey
	cert   []byte
	ca     []byte
	prefix []byte
}

// NewVerifier is for the conductor with this certificate and CA.
func NewVerifier(cert, ca *x509.Certificate) *Verifier {
	b := []byte(`{"conductor-public-cert":"`)
	b = base64.StdEncoding.AppendEncode(b, cert.Raw)
	b = append(b, `","conductor-ca-cert":"`...)
	b = base64.StdEncoding.AppendEncode(b, ca.Raw)
	b = append(b, `","secret":"`...)
	return &Verifier{pub: cert.PublicKey, cert: cert.Raw, ca: ca.Raw, prefix: b}
}

// Verify checks a token's signature and expiry, and returns its claims. compact
// is t with the secret in it, as [Join] makes it.
func (v *Verifier) Verify(compact string, t *Token, secret string, now time.Time) (*Claims, error) {
	if len(compact) > MaxToken {
		return nil, fmt.Errorf("the token has %d bytes, the most is %d", len(compact), MaxToken)
	}
	if err := verifySignature(compact, t.Header, t.Signature, v.pub); err != nil {
		return nil, err
	}
	c := new(Claims)
	if rest, ok := bytes.CutPrefix(t.After, []byte(`",`)); ok && bytes.Equal(t.Before, v.prefix) {
		// Our own issuer's form, with our present certificates: they make
		// most of a token, and need not be decoded to be compared.
		if err := json.Unmarshal(append([]byte{'{'}, rest...), c); err != nil {
			return nil, errors.New("its payload is malformed")
		}
		if c.PublicCert == nil && c.CACert == nil && c.Secret == nil {
			c.PublicCert, c.CACert, c.Secret = v.cert, v.ca, []byte(secret)
		}
	} else {
		payload := base64.StdEncoding.AppendEncode(slices.Clone(t.Before), []byte(secret))
		if err := json.Unmarshal(append(payload, t.After...), c); err != nil {
			return nil, errors.New("its payload is malformed")
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if !now.Before(c.ExpiresAt.Time) {
		return nil, ErrExpired
	}
	return c, nil
}
