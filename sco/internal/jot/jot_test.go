package jot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

const secret = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL"

func certificate(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "c"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

func claims(cert *x509.Certificate) *Claims {
	return &Claims{PublicCert: cert.Raw, CACert: cert.Raw, Secret: []byte(secret), AssetIDs: []string{"a", "b"}, Router: "r",
		Addresses: []string{"x:1"}, InitialConfig: []byte("cfg"), ExpiresAt: jwt.NewNumericDate(time.Unix(2000, 0)),
		IssuedAt: jwt.NewNumericDate(time.Unix(1000, 0)), ID: "id"}
}

func ec(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	require.NoError(t, err)
	return k
}

// opaque hides a key behind crypto.Signer, as a TPM does.
type opaque struct{ crypto.Signer }

func TestSignParseJoinVerify(t *testing.T) {
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for _, key := range []crypto.Signer{rk, ec(t, elliptic.P256()), ec(t, elliptic.P384()), opaque{rk}} {
		cert := certificate(t, key)
		s, err := Sign(claims(cert), key)
		require.NoError(t, err)
		p, err := Parse(s)
		require.NoError(t, err)
		require.NotContains(t, string(p.Before)+string(p.After), base64.StdEncoding.EncodeToString([]byte(secret)))
		joined := Join(p.Header, p.Before, p.After, p.Signature, secret)
		require.Equal(t, s, joined)
		v := NewVerifier(cert, cert)
		got, err := v.Verify(joined, p, secret, time.Unix(1999, 0))
		require.NoError(t, err)
		require.Equal(t, p.Claims, got)
		_, err = v.Verify(joined, p, secret, time.Unix(2000, 0))
		require.ErrorIs(t, err, ErrExpired)

		// The order of the claims does not matter.
		other := NewVerifier(cert, cert)
		other.prefix = nil
		got, err = other.Verify(joined, p, secret, time.Unix(1999, 0))
		require.NoError(t, err)
		require.Equal(t, p.Claims, got)

		wrong := strings.Replace(secret, "0", "1", 1)
		_, err = v.Verify(Join(p.Header, p.Before, p.After, p.Signature, wrong), p, wrong, time.Unix(1999, 0))
		require.ErrorContains(t, err, "signature does not verify")
	}
	_, err = Sign(claims(certificate(t, rk)), ec(t, elliptic.P521()))
	require.ErrorContains(t, err, "signs no tokens")
	_, err = Sign(&Claims{}, rk)
	require.ErrorContains(t, err, "conductor-public-cert is missing")
}

func TestRepeatedClaimsCannotReplaceTheCertificates(t *testing.T) {
	key := ec(t, elliptic.P256())
	cert := certificate(t, key)
	v := NewVerifier(cert, cert)
	head := []byte(`{"alg":"ES256","typ":"JWT"}`)
	after := []byte(fmt.Sprintf(`","asset-id":["a"],"router":"r","exp":2000,"iat":1000,"conductor-ca-cert":%q}`, base64.StdEncoding.EncodeToString([]byte("other"))))
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(head) + "." + b64([]byte(string(v.prefix)+base64.StdEncoding.EncodeToString([]byte(secret))+string(after)))
	sig, err := jwt.SigningMethodES256.Sign(signed, key)
	require.NoError(t, err)
	tok := &Token{Header: head, Before: v.prefix, After: after, Signature: sig}
	_, err = v.Verify(Join(head, v.prefix, after, sig, secret), tok, secret, time.Unix(1999, 0))
	require.Error(t, err, "the repeated claim is seen")
}

// A header is one JSON value and nothing after it, signed or not.
func TestHeaderHasNothingAfterIt(t *testing.T) {
	key := ec(t, elliptic.P256())
	cert := certificate(t, key)
	s, err := Sign(claims(cert), key)
	require.NoError(t, err)
	_, body, _ := strings.Cut(s, ".")
	body, _, _ = strings.Cut(body, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	for after, ok := range map[string]bool{"": true, " \n": true, "}": false, "]": false, "{}": false, "x": false} {
		signed := b64([]byte(`{"alg":"ES256","typ":"JWT"}`+after)) + "." + body
		sig, err := jwt.SigningMethodES256.Sign(signed, key)
		require.NoError(t, err)
		_, err = Parse(signed + "." + b64(sig))
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "header", "%q", after)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := ec(f, elliptic.P256())
	cert := certificate(f, key)
	s, err := Sign(claims(cert), key)
	require.NoError(f, err)
	f.Add(s)
	f.Add("a.b.c")
	f.Add("..")
	f.Add(strings.Join([]string{base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{}`)), ""}, "."))
	v := NewVerifier(cert, cert)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.Equal(t, s, Join(p.Header, p.Before, p.After, p.Signature, string(p.Claims.Secret)))
		_, _ = v.Verify(s, p, string(p.Claims.Secret), time.Unix(0, 0))
	})
}

func FuzzVerify(f *testing.F) {
	key := ec(f, elliptic.P256())
	cert := certificate(f, key)
	s, err := Sign(claims(cert), key)
	require.NoError(f, err)
	p, err := Parse(s)
	require.NoError(f, err)
	f.Add(p.Header, p.Before, p.After, p.Signature)
	v := NewVerifier(cert, cert)
	f.Fuzz(func(t *testing.T, header, before, after, sig []byte) {
		x := &Token{Header: header, Before: before, After: after, Signature: sig}
		if _, err := v.Verify(Join(header, before, after, sig, secret), x, secret, time.Unix(0, 0)); err == nil {
			require.Equal(t, p.Before, before)
			require.Equal(t, p.After, after)
		}
	})
}

func TestClaimsAreChecked(t *testing.T) {
	key := ec(t, elliptic.P256())
	cert := certificate(t, key)
	for want, change := range map[string]func(*Claims){
		"conductor-public-cert is missing": func(c *Claims) { c.PublicCert = nil },
		"conductor-ca-cert is missing":     func(c *Claims) { c.CACert = nil },
		"secret has 47 bytes":              func(c *Claims) { c.Secret = c.Secret[1:] },
		"asset-id has 0":                   func(c *Claims) { c.AssetIDs = nil },
		"asset-id has 3":                   func(c *Claims) { c.AssetIDs = []string{"a", "b", "c"} },
		"is empty or too long":             func(c *Claims) { c.AssetIDs = []string{""} },
		"router is missing":                func(c *Claims) { c.Router = "" },
		"exp or iat":                       func(c *Claims) { c.ExpiresAt = nil },
		"conductor-addresses has":          func(c *Claims) { c.Addresses = make([]string, 17) },
		"initial-config has":               func(c *Claims) { c.InitialConfig = make([]byte, MaxInitialConfig+1) },
	} {
		c := claims(cert)
		change(c)
		_, err := Sign(c, key)
		require.ErrorContains(t, err, want)
	}
}
