package pki_test

import (
	"crypto/x509"
	"fmt"
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
