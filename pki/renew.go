package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
)

// renewState is how far the renewal of one name is.
type renewState struct {
	mu      sync.Mutex
	running bool
	fails   int
	next    time.Time
}

// renewDue starts the renewals whose time has come.
func (m *Manager) renewDue(ctx context.Context, wg *sync.WaitGroup) {
	if m.cfg.Enroller == nil || ctx.Err() != nil {
		return
	}
	now := m.now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, e := range m.entries {
		pair := e.pair.Load()
		if pair == nil || now.Before(m.renewAt(pair.Leaf)) || !m.renews(e.name) {
			continue
		}
		r := &e.renew
		r.mu.Lock()
		if !r.running && !now.Before(r.next) {
			r.running = true
			wg.Go(func() { m.renew(ctx, e, pair) })
		}
		r.mu.Unlock()
	}
}

func (m *Manager) renews(name string) bool {
	r, ok := m.cfg.Enroller.(interface{ Renews(name string) bool })
	return !ok || r.Renews(name)
}

// renewAt is when a certificate is to be renewed: with a third of its life left,
// or as configured. A twentieth of the rest is spread by the certificate itself,
// so that routers of the same day do not all come at once.
func (m *Manager) renewAt(c *x509.Certificate) time.Time {
	before := m.cfg.RenewBefore
	if before == 0 {
		before = c.NotAfter.Sub(c.NotBefore) / 3
	}
	spread := time.Duration(c.Signature[len(c.Signature)-1]) * (before / 20) / 256
	return c.NotAfter.Add(-before).Add(spread)
}

// renew makes one attempt.
func (m *Manager) renew(ctx context.Context, e *entry, pair *tls.Certificate) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	err := m.Renew(ctx, e.name)
	r := &e.renew
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = false
	if err == nil {
		r.fails, r.next = 0, time.Time{}
		m.alarm(ctx, "pki.renewal/"+e.name, e.name, 0, "")
		return
	}
	r.fails++
	wait := min(renewRetryMin<<min(r.fails-1, 16), renewRetryMax)
	r.next = m.now().Add(wait/2 + upTo(wait/2))
	m.cfg.Logger.ErrorContext(ctx, "renewal", "name", e.name, "error", err, "not_after", pair.Leaf.NotAfter, "next", r.next)
	m.alarm(ctx, "pki.renewal/"+e.name, e.name, mooring.SeverityMinor, "certificate could not be renewed ahead of time: "+err.Error())
}

// Renew gets a new certificate for a name through Config.Enroller now: a new key
// of the same kind, or the one that waits, a request with the names of the certificate in force, and the
// answer taken in as [Manager.Ingest] does. The old pair stays in force until
// then.
func (m *Manager) Renew(ctx context.Context, name string) error {
	if m.cfg.Enroller == nil {
		return errors.New("pki: renew: no enroller is set")
	}
	pair, err := m.certificate(name)
	if err != nil {
		return err
	}
	var signer crypto.Signer
	err = m.write(ctx, func() error {
		// A key that waits already is used again: an earlier attempt made it,
		// or somebody who has sent a request with it.
		pending, _, _, err := m.storedKeys(ctx, name)
		if err != nil || pending != nil {
			signer = pending
			return err
		}
		if err := m.makeKey(ctx, name, specOf(pair.Leaf.PublicKey), true); err != nil {
			return err
		}
		signer, _, _, err = m.storedKeys(ctx, name)
		return err
	})
	if err != nil {
		return err
	}
	if signer == nil {
		return fmt.Errorf("pki: renew %q: the new key cannot be used", name)
	}
	request, err := m.renewalRequest(pair.Leaf, signer)
	if err != nil {
		return err
	}
	current, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("pki: renew %q: the key does not sign", name)
	}
	certs, err := m.cfg.Enroller.Renew(ctx, Renewal{Name: name, Request: request, Certificate: pairCertificates(pair), Key: current})
	if err != nil {
		return fmt.Errorf("pki: renew %q: %w", name, err)
	}
	_, err = m.Ingest(ctx, name, encodeCertificates(certs))
	return err
}

func (m *Manager) renewalRequest(c *x509.Certificate, signer crypto.Signer) ([]byte, error) {
	extensions, err := requestExtensions()
	if err != nil {
		return nil, err
	}
	for _, e := range c.Extensions {
		// RFC 7030 section 4.2.2: subject and subjectAltName stay the same.
		if e.Id.String() == "2.5.29.17" {
			extensions = append(extensions, pkix.Extension{Id: e.Id, Critical: e.Critical, Value: e.Value})
		}
	}
	return signRequest(&x509.CertificateRequest{RawSubject: c.RawSubject, ExtraExtensions: extensions}, signer)
}

// upTo returns a random duration from 0 to d, so that routers that failed
// together do not come back together.
func upTo(d time.Duration) time.Duration {
	var b [8]byte
	_, _ = rand.Read(b[:]) // It never fails (crypto/rand).
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d+1))
}
