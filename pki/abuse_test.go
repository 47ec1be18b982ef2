package pki_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
)

// TestStrangersTakeNoMemory asks about certificates of an unknown authority, as
// anybody can who reaches the port: no key is needed for it.
func TestStrangersTakeNoMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	peer := b.ca.Leaf(t, "peer", testca.ECKey(t).Public())
	require.NoError(t, b.m.VerifyPeer(t.Context(), []*x509.Certificate{peer}, pki.PeerOptions{}))
	stranger := testca.Root(t, "stranger", start).Leaf(t, "stranger", testca.ECKey(t).Public())
	released := make(chan struct{})
	func() {
		last := *stranger
		throwaway := &last
		runtime.AddCleanup(throwaway, func(c chan struct{}) { close(c) }, released)
		require.Error(t, b.m.VerifyPeer(t.Context(), []*x509.Certificate{throwaway}, pki.PeerOptions{Name: "first"}))
	}()
	// The certificates of a refusal are not kept, remembered or not.
	deadline := time.After(time.Minute)
	for gone := false; !gone; {
		runtime.GC()
		select {
		case <-released:
			gone = true
		case <-deadline:
			t.Fatal("a stranger's certificate is kept")
		default:
			runtime.Gosched()
		}
	}
	for n := range pki.MaxRefused + 500 {
		require.Error(t, b.m.VerifyPeer(t.Context(), []*x509.Certificate{stranger}, pki.PeerOptions{Name: fmt.Sprint("n", n)}))
	}
	good, refused := b.m.Remembered()
	require.Equal(t, 1, good, "strangers push nothing out")
	require.LessOrEqual(t, refused, pki.MaxRefused)
	// What has expired goes.
	b.now = b.now.Add(time.Minute)
	require.NoError(t, b.m.Sweep(t.Context()))
	good, refused = b.m.Remembered()
	require.Equal(t, 1, good)
	require.Zero(t, refused)
}

// TestFullDirectoryTakesNoMore fills a directory up to its limits: what is one
// too many is refused before it is written.
func TestFullDirectoryTakesNoMore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	for n := range pki.MaxManaged {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, fmt.Sprintf("n%d.key", n)), nil, 0o600))
	}
	require.ErrorContains(t, b.m.CreateKey(ctx, pki.KeyRequest{Name: "more", Algorithm: "ECC"}), "no more")
	_, err := b.m.CreateRequest(ctx, pki.Request{Name: "more", CommonName: "c", Algorithm: "ECC"})
	require.ErrorContains(t, err, "no more")
	require.NoError(t, b.m.CreateKey(ctx, pki.KeyRequest{Name: "n7", Algorithm: "ECC", Replace: true}))
	require.NoError(t, b.m.Sweep(ctx))

	text := testca.PEM(b.ca.Cert)
	for n := range pki.MaxBundles - 1 {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, "trust", fmt.Sprintf("a%d.pem", n)), text, 0o600))
	}
	_, err = b.m.AddTrust(ctx, "more", text, pki.Strict)
	require.ErrorContains(t, err, "remove one")
	_, err = b.m.AddTrust(ctx, "root", text, pki.Strict)
	require.NoError(t, err, "one that is there is replaced")

	// By hand anything can be written. It is not used, and can be removed.
	other := testca.Root(t, "other", start)
	peer := []*x509.Certificate{other.Leaf(t, "peer", testca.ECKey(t).Public())}
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "trust", "zzz.pem"), testca.PEM(other.Cert), 0o600))
	b.open(t)
	require.NoError(t, b.m.Sweep(ctx))
	require.Equal(t, []string{"critical"}, b.history("pki.trust/zzz"))
	require.Error(t, b.m.VerifyPeer(ctx, peer, pki.PeerOptions{}))
	require.NoError(t, b.m.RemoveTrust(ctx, "a0"))
	require.NoError(t, b.m.VerifyPeer(ctx, peer, pki.PeerOptions{}), "there is room for it now")
	require.NoError(t, b.m.RemoveTrust(ctx, "zzz"))
	require.Error(t, b.m.VerifyPeer(ctx, peer, pki.PeerOptions{}))
}
