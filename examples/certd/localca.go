package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"slices"
	"time"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/pki"
)

const (
	// httpsName is the name of certd's own certificate.
	httpsName = "https"
	// caTrust is the bundle with certd's own authority.
	caTrust    = "certd"
	caLife     = 10 * 365 * 24 * time.Hour
	httpsLife  = 397 * 24 * time.Hour
	backdating = 5 * time.Minute
	// maxAddresses bounds the addresses of the machine that go into the
	// certificate.
	maxAddresses = 32
)

// localCA signs certd's own HTTPS certificate until the operator puts another
// one under the name "https". It is an enrolment client for that name alone.
type localCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Renews tells the manager for which names to ask.
func (l *localCA) Renews(name string) bool { return name == httpsName }

// Renew implements pki.Enroller.
func (l *localCA) Renew(_ context.Context, r pki.Renewal) ([]*x509.Certificate, error) {
	if r.Name != httpsName || len(r.Certificate) > 0 && r.Certificate[0].CheckSignatureFrom(l.cert) != nil {
		return nil, errors.New("the certificate is another authority's; renew it there")
	}
	c, err := l.sign(r.Request)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{c}, nil
}

func (l *localCA) sign(request []byte) (*x509.Certificate, error) {
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, err
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: newSerial(), RawSubject: r.RawSubject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses,
		NotBefore: now.Add(-backdating), NotAfter: now.Add(httpsLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, l.cert, r.PublicKey, l.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// makeCA makes the authority.
func (c *cli) makeCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "certd on " + host[:min(len(host), 40)]},
		NotBefore: now.Add(-backdating), NotAfter: now.Add(caLife), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	w := durable.Writer{}
	if err := w.WriteFile(c.state("ca.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return err
	}
	return w.WriteFile(c.state("ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// loadCA returns nil when there was no init.
func (c *cli) loadCA() (*localCA, error) {
	secret, err := os.ReadFile(c.state("ca.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(c.state("ca.pem"))
	if err != nil {
		return nil, err
	}
	damaged := fmt.Errorf("%s and ca.pem are damaged; restore them", c.state("ca.key"))
	k, _ := pem.Decode(secret)
	p, _ := pem.Decode(text)
	if k == nil || p == nil {
		return nil, damaged
	}
	parsed, err := x509.ParsePKCS8PrivateKey(k.Bytes)
	if err != nil {
		return nil, damaged
	}
	cert, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		return nil, damaged
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, damaged
	}
	return &localCA{cert: cert, key: key}, nil
}

// ensureHTTPS makes certd's own certificate when there is none, and makes it
// again when it was signed here and lacks a name by which certd is reached.
func (s *site) ensureHTTPS(ctx context.Context, listen string) error {
	if s.local == nil {
		return fmt.Errorf("%s is not set up; run certd init -dir %s first", s.c.dir, s.c.dir)
	}
	names := ownNames(listen)
	if certs, err := s.m.Certificate(httpsName); err == nil {
		if certs[0].CheckSignatureFrom(s.local.cert) != nil {
			return nil
		}
		if time.Now().Before(certs[0].NotAfter) && !slices.ContainsFunc(names, func(n string) bool { return certs[0].VerifyHostname(n) != nil }) {
			return nil
		}
	}
	if !slices.ContainsFunc(s.m.Trusted(), func(b pki.Bundle) bool { return b.Name == caTrust }) {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.local.cert.Raw})
		if _, err := s.m.AddTrust(ctx, caTrust, text, pki.Strict); err != nil {
			return err
		}
	}
	text, err := s.m.CreateRequest(ctx, pki.Request{Name: httpsName, CommonName: "certd", Algorithm: "ECC", SubjectAltNames: names})
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	c, err := s.local.sign(block.Bytes)
	if err != nil {
		return err
	}
	_, err = s.m.Ingest(ctx, httpsName, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	return err
}

// ownNames are the names and addresses of this machine, and the one to listen on.
func ownNames(listen string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(n string) {
		if n != "" && len(names) < maxAddresses && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if host, _, err := net.SplitHostPort(listen); err == nil {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			add(host)
		}
	}
	if host, err := os.Hostname(); err == nil {
		add(host)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return names
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			add(n.IP.String())
		}
	}
	return names
}
