// Package testca makes authorities and certificates for tests: right ones, and
// ones with a single fault.
package testca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// CA is an authority with its key.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	Now  time.Time
}

// Edit changes a template before it is signed.
type Edit func(t *x509.Certificate)

// ECKey makes a P-256 key.
func ECKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// Root makes a self-signed authority that is valid for ten years from a year
// before now.
func Root(tb testing.TB, name string, now time.Time, edits ...Edit) *CA {
	tb.Helper()
	return RootKey(tb, name, now, ECKey(tb), edits...)
}

// RootKey is Root with a given key.
func RootKey(tb testing.TB, name string, now time.Time, key crypto.Signer, edits ...Edit) *CA {
	tb.Helper()
	t := authority(tb, name, now, key.Public(), edits)
	return &CA{Cert: sign(tb, t, t, key.Public(), key), Key: key, Now: now}
}

// Intermediate makes an authority below this one.
func (c *CA) Intermediate(tb testing.TB, name string, edits ...Edit) *CA {
	tb.Helper()
	key := ECKey(tb)
	t := authority(tb, name, c.Now, key.Public(), edits)
	return &CA{Cert: sign(tb, t, c.Cert, key.Public(), c.Key), Key: key, Now: c.Now}
}

func authority(tb testing.TB, name string, now time.Time, pub crypto.PublicKey, edits []Edit) *x509.Certificate {
	tb.Helper()
	t := &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{Organization: []string{"Test"}, CommonName: name},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
		SubjectKeyId: keyID(tb, pub),
	}
	for _, e := range edits {
		e(t)
	}
	return t
}

// Leaf makes a certificate for a router, valid for a year from an hour before
// now.
func (c *CA) Leaf(tb testing.TB, name string, pub crypto.PublicKey, edits ...Edit) *x509.Certificate {
	tb.Helper()
	t := &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: name},
		NotBefore: c.Now.Add(-time.Hour), NotAfter: c.Now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{name + ".example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true, SubjectKeyId: keyID(tb, pub),
	}
	for _, e := range edits {
		e(t)
	}
	return sign(tb, t, c.Cert, pub, c.Key)
}

// Sign answers a request, PKCS #10 in PEM.
func (c *CA) Sign(tb testing.TB, csr []byte, edits ...Edit) *x509.Certificate {
	tb.Helper()
	block, _ := pem.Decode(csr)
	if block == nil {
		tb.Fatal("no PEM in the request")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil {
		tb.Fatal(err)
	}
	all := append([]Edit{func(t *x509.Certificate) {
		t.RawSubject = r.RawSubject
		t.DNSNames, t.IPAddresses, t.URIs, t.EmailAddresses = r.DNSNames, r.IPAddresses, r.URIs, r.EmailAddresses
	}}, edits...)
	return c.Leaf(tb, r.Subject.CommonName, r.PublicKey, all...)
}

func sign(tb testing.TB, t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

func keyID(tb testing.TB, pub crypto.PublicKey) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		// Keys that cannot be encoded are for faulty certificates.
		return []byte{1, 2, 3, 4}
	}
	sum := sha256.Sum256(der)
	return sum[:20]
}

// PEM encodes certificates.
func PEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}
