package crl_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

// A router keeps the lists of its authority, and refuses revoked peers.
func Example() {
	var authority *x509.Certificate // from the configuration of the product
	if authority == nil {
		fmt.Println("no authority")
		return
	}
	m, err := crl.New(crl.Config{
		Directory: "/var/lib/product/crl",
		Issuers:   []*x509.Certificate{authority},
		URLs:      []string{"http://pki.example/ca.crl"},
		OnRevoked: func(_ context.Context, cert *x509.Certificate, r crl.Result) {
			log.Printf("closing connections of %s: %s", cert.Subject, r.Reason)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := m.Load(ctx); err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(m.Run(ctx)) }()
	_ = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, VerifyConnection: m.VerifyConnection}
	// Output: no authority
}

// An answer says what it rests on.
func ExampleManager_Check() {
	dir, err := os.MkdirTemp("", "crl")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	authority, peer, list := crltest.Example()
	path := filepath.Join(dir, "ca.crl")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		log.Fatal(err)
	}
	m, err := crl.New(crl.Config{
		Directory: filepath.Join(dir, "state"),
		Issuers:   []*x509.Certificate{authority},
		URLs:      []string{"file://" + path},
		Now:       func() time.Time { return crltest.Now },
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Fetch(context.Background()); err != nil {
		log.Fatal(err)
	}
	r := m.Check(peer, authority)
	fmt.Println(r.Status, r.Reason, r.RevokedAt.Format(time.DateOnly))
	var revoked *crl.RevokedError
	fmt.Println(errors.As(m.Permit(peer, r), &revoked))
	// Output:
	// revoked keyCompromise 2026-06-01
	// true
}
