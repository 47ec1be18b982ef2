package pki_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/keystore"
)

// put places a certificate as an operator does.
func (b *bench) put(t *testing.T, name string, certs ...*x509.Certificate) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, name+".pem"), testca.PEM(certs...), 0o600))
}

func (b *bench) sweep(t *testing.T) {
	t.Helper()
	require.NoError(t, b.m.Sweep(t.Context()))
}

func (b *bench) leaf(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	certs, err := b.m.Certificate(name)
	require.NoError(t, err)
	return certs[0]
}

// TestRefusedByHandIsTriedAgain replaces a certificate by hand before its
// authority is trusted, and while nothing is known of revocation.
func TestRefusedByHandIsTriedAgain(t *testing.T) {
	t.Parallel()
	l := &lists{revoked: map[string]string{}, unknown: map[string]error{}}
	b := newBench(t, func(c *pki.Config) { c.Behavior = pki.FailHard; c.Revocation = l; c.Names = []string{"n"} })
	old := b.provision(t, "n")
	other := testca.Root(t, "other", start)
	fresh := other.Sign(t, b.csr(t, "n"))
	l.unknown[fresh.SerialNumber.String()] = errors.New("no list")
	b.put(t, "n", fresh)
	failures := b.m.Counters().ImportFailure
	for range 3 {
		b.sweep(t)
		require.True(t, b.leaf(t, "n").Equal(old))
		require.Equal(t, pki.StateInvalid, b.status(t, "n").State)
	}
	require.Equal(t, failures+1, b.m.Counters().ImportFailure, "recorded once")
	records := len(b.events)
	require.Empty(t, b.drops, "the certificate in use is valid")

	b.trust(t, "other", other.Cert)
	b.sweep(t)
	require.True(t, b.leaf(t, "n").Equal(old))
	require.Contains(t, b.m.Alarms()[0].Text, "no list")
	require.Len(t, b.events, records+1, "of trust")
	delete(l.unknown, fresh.SerialNumber.String())
	b.reauths = nil
	b.sweep(t)
	require.True(t, b.leaf(t, "n").Equal(fresh))
	require.Equal(t, []string{"n"}, b.reauths)
	require.Empty(t, b.m.Alarms())
	b.sweep(t)
	require.Equal(t, []string{"n"}, b.reauths, "once")
	require.Empty(t, b.drops)
}

// TestNotYetValidByHand places a certificate ahead of its time.
func TestNotYetValidByHand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.provision(t, "n")
	fresh := b.ca.Sign(t, b.csr(t, "n"), func(t *x509.Certificate) { t.NotBefore = start.Add(time.Hour) })
	b.put(t, "n", fresh)
	b.sweep(t)
	require.False(t, b.leaf(t, "n").Equal(fresh))
	b.now = start.Add(2 * time.Hour)
	b.sweep(t)
	require.True(t, b.leaf(t, "n").Equal(fresh))
}

// busyKeys is a key store that can be out of order, as a TPM that others use.
type busyKeys struct {
	keystore.Software
	busy atomic.Bool
}

func (k *busyKeys) Open(ctx context.Context, text []byte) (crypto.Signer, error) {
	if k.busy.Load() {
		return nil, errors.New("the TPM is busy")
	}
	return k.Software.Open(ctx, text)
}

func TestBusyKeysAtTheStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cert := b.provision(t, "n")
	keys := &busyKeys{}
	keys.busy.Store(true)
	b.open(t, func(c *pki.Config) { c.Keys = keys; c.Names = []string{"n"} })
	b.sweep(t)
	b.sweep(t)
	require.Contains(t, b.m.Alarms()[0].Text, "busy")
	keys.busy.Store(false)
	b.reauths = nil
	records := len(b.events)
	b.sweep(t)
	require.True(t, b.leaf(t, "n").Equal(cert))
	require.Empty(t, b.m.Alarms())
	require.Len(t, b.events, records, "it was loaded, not handed in")
	require.Empty(t, b.reauths)
}

// TestOwnCertificateDropsOnce goes from bad to otherwise bad.
func TestOwnCertificateDropsOnce(t *testing.T) {
	t.Parallel()
	l := &lists{revoked: map[string]string{}, unknown: map[string]error{}}
	b := newBench(t, func(c *pki.Config) { c.Behavior = pki.FailHard; c.Revocation = l })
	cert := b.provision(t, "n", func(t *x509.Certificate) { t.NotAfter = start.Add(time.Hour) })
	b.sweep(t)
	require.Empty(t, b.drops)
	b.now = start.Add(2 * time.Hour)
	b.sweep(t)
	require.Equal(t, pki.StateExpired, b.status(t, "n").State)
	require.Len(t, b.drops, 1)
	require.Equal(t, "n", b.drops[0].Certificate)
	// A certificate that is expired may be found to be revoked too.
	l.revoked[cert.SerialNumber.String()] = "keyCompromise"
	b.now = start.Add(30 * time.Minute)
	b.m.RevocationChanged()
	b.sweep(t)
	require.Equal(t, pki.StateRevoked, b.status(t, "n").State)
	require.Len(t, b.drops, 1, "once")
	require.Equal(t, uint64(1), b.m.Counters().CertificateRevoked)
}

// TestForgottenPeerRaisesNothing is a WatchPeer that waits for its turn while
// its peer is forgotten.
func TestForgottenPeerRaisesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *pki.Config) { c.Behavior = pki.FailHard })
	foreign := testca.Root(t, "other", start).Leaf(t, "peer", testca.ECKey(t).Public())
	require.Error(t, b.m.LookAtForgotten(t.Context(), pki.Peer{Name: "peer", Certificates: []*x509.Certificate{foreign}}))
	require.Empty(t, b.m.Alarms())
	require.Empty(t, b.drops)
}
