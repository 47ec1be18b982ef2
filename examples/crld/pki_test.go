package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"
)

// pki is an authority with some certificates.
type pki struct {
	now   time.Time
	key   *ecdsa.PrivateKey
	ca    *x509.Certificate
	certs map[string]*x509.Certificate
}

func newPKI(now time.Time) *pki {
	p := &pki{now: now, key: newKey(), certs: make(map[string]*x509.Certificate)}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	p.ca = makeCert(tmpl, tmpl, p.key, p.key)
	for i, name := range []string{"good", "bad", "held"} {
		p.certs[name] = makeCert(&x509.Certificate{
			SerialNumber: big.NewInt(int64(100 + i)), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		}, p.ca, p.key, p.key)
	}
	other := newKey()
	stranger := &x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	p.certs["stranger"] = makeCert(stranger, stranger, other, other)
	return p
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func makeCert(tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func (p *pki) sign(l *x509.RevocationList) []byte {
	der, err := x509.CreateRevocationList(rand.Reader, l, p.ca, p.key)
	if err != nil {
		panic(err)
	}
	return der
}
