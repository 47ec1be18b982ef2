package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/pki"
)

// maxIssuers bounds the issuers whose lists are open at once.
const maxIssuers = 64

// revocation answers from the directory that a manager of revocation lists, such
// as crld, keeps. It never fetches, and writes nothing there: a manager here knows
// one issuer, and what others have published is not its to judge. Which issuer is trusted is package pki's
// question, and it is answered before this one is asked.
type revocation struct {
	dir    string
	local  *localCA
	logger *slog.Logger
	mu     sync.Mutex
	open   map[string]*crl.Manager
}

var (
	_ pki.RevocationChecker = (*revocation)(nil)
	_ pki.RevocationChecker = (*crl.Manager)(nil)
)

// CheckRevocation implements pki.RevocationChecker.
func (r *revocation) CheckRevocation(ctx context.Context, cert, issuer *x509.Certificate) (bool, string, time.Time, error) {
	if r.local != nil && issuer.Equal(r.local.cert) {
		// Our own authority signs one certificate and revokes none.
		return false, "", time.Time{}, nil
	}
	m, err := r.manager(issuer)
	if err == nil {
		// Only a look at a file, unless another one was published.
		err = m.Load(ctx)
	}
	if err != nil {
		return false, "", time.Time{}, err
	}
	return m.CheckRevocation(ctx, cert, issuer)
}

func (r *revocation) manager(issuer *x509.Certificate) (*crl.Manager, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.open[string(issuer.Raw)]; m != nil {
		return m, nil
	}
	if len(r.open) >= maxIssuers {
		clear(r.open)
	}
	m, err := crl.New(crl.Config{Directory: r.dir, Issuers: []*x509.Certificate{issuer}, ReadOnly: true, Logger: r.logger})
	if err != nil {
		return nil, err
	}
	if r.open == nil {
		r.open = map[string]*crl.Manager{}
	}
	r.open[string(issuer.Raw)] = m
	return m, nil
}

// RevocationGeneration tells package pki that lists were published: each is
// renamed into the directory.
func (r *revocation) RevocationGeneration() uint64 {
	info, err := os.Stat(r.dir)
	if err != nil {
		return 0
	}
	return uint64(info.ModTime().UnixNano())
}
