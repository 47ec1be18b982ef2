package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/pki"
)

const certificateName = "peering"

// pkiWorld is what the steps about certificates share.
type pkiWorld struct {
	certificates *pki.Manager
	revocation   *crl.Manager
	listURL      string

	mu      sync.Mutex
	list    []byte
	number  int64
	revoked []x509.RevocationListEntry
}

// publish signs a revocation list and puts it where certificates say it is.
func (p *pkiWorld) publish(ca *authority) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.number++
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number:                    big.NewInt(p.number),
		ThisUpdate:                time.Now().Add(-time.Minute),
		NextUpdate:                time.Now().Add(24 * time.Hour),
		RevokedCertificateEntries: p.revoked,
	}, ca.cert, ca.key)
	p.list = list
	return err
}

func (p *pkiWorld) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = w.Write(p.list)
}

// provision makes key and request, has the CA sign, and takes the certificate
// in. crl answers the question whether it is revoked, which pki asks without
// knowing crl.
func provision(ctx context.Context, w *world) (facts, error) {
	p := w.pki
	server, err := listen()
	if err != nil {
		return nil, err
	}
	p.listURL = "http://" + server.Addr().String() + "/organisation.crl"
	if err := p.publish(w.ca); err != nil {
		return nil, err
	}
	w.serveHTTP(server, p)
	p.revocation, err = crl.New(crl.Config{
		Directory: filepath.Join(w.dir, "crl"), Issuers: []*x509.Certificate{w.ca.cert}, URLs: []string{p.listURL},
		Alarms: w.events, Events: w.events,
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.revocation.Load(ctx), p.revocation.Fetch(ctx)); err != nil {
		return nil, err
	}
	p.certificates, err = pki.New(pki.Config{
		Dir: filepath.Join(w.dir, "pki"), Names: []string{certificateName}, Revocation: p.revocation,
		Alarms: w.events, Events: w.events,
	})
	if err != nil {
		return nil, err
	}
	if err := p.certificates.Open(ctx); err != nil {
		return nil, err
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca.cert.Raw})
	if _, err := p.certificates.AddTrust(ctx, "organisation", ca, pki.Strict); err != nil {
		return nil, err
	}
	if err := p.certificates.CreateKey(ctx, pki.KeyRequest{Name: certificateName, Algorithm: "ECC"}); err != nil {
		return nil, err
	}
	text, err := p.certificates.CreateRequest(ctx, pki.Request{Name: certificateName, CommonName: "branch-7.example"})
	if err != nil {
		return nil, err
	}
	cert, err := w.sign(text)
	if err != nil {
		return nil, err
	}
	report, err := p.certificates.Ingest(ctx, certificateName, cert)
	if err != nil {
		return nil, err
	}
	var found facts
	for _, check := range report.Checks {
		found = append(found, fact{check.Name, check.Result})
	}
	return found, nil
}

// sign is the certificate authority's part.
func (w *world) sign(request []byte) ([]byte, error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return nil, errors.New("the request is not PEM")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, err
	}
	cert, err := w.ca.issue(r.Subject.CommonName, r.PublicKey, x509.ExtKeyUsageClientAuth, w.pki.listURL)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
}

// revoke has the CA revoke the certificate, and everybody learns of it.
func revoke(ctx context.Context, w *world) (facts, error) {
	p := w.pki
	certs, err := p.certificates.Certificate(certificateName)
	if err != nil {
		return nil, err
	}
	options := pki.PeerOptions{Trust: "organisation"}
	if err := p.certificates.VerifyPeer(ctx, certs, options); err != nil {
		return nil, fmt.Errorf("before the revocation: %w", err)
	}
	p.mu.Lock()
	p.revoked = append(p.revoked, x509.RevocationListEntry{
		SerialNumber: certs[0].SerialNumber, RevocationTime: time.Now().Add(-time.Minute), ReasonCode: 1,
	})
	p.mu.Unlock()
	if err := p.publish(w.ca); err != nil {
		return nil, err
	}
	if err := p.revocation.Fetch(ctx); err != nil {
		return nil, err
	}
	p.certificates.RevocationChanged()
	result := p.revocation.Check(certs[0], w.ca.cert)
	if result.Status != crl.StatusRevoked {
		return nil, fmt.Errorf("after the revocation the status is %s: %s", result.Status, result.Why)
	}
	refusal := p.certificates.VerifyConnection(options)(tls.ConnectionState{PeerCertificates: certs})
	if refusal == nil {
		return nil, errors.New("a revoked certificate was accepted")
	}
	if err := p.certificates.Sweep(ctx); err != nil {
		return nil, err
	}
	found := facts{{"revocation list", fmt.Sprintf("%s: %s", result.Status, result.Reason)}, {"a peer now sees", short(refusal.Error(), 100)}}
	for _, alarm := range p.certificates.Alarms() {
		found = append(found, fact{alarm.Severity.String() + " alarm", short(alarm.Text, 100)})
	}
	return found, nil
}
