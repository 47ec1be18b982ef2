package pki_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
)

// BenchmarkPeer compares what a handshake costs: path validation by crypto/x509
// alone, by us for the first time, and by us from memory. The three take turns,
// so that what else the machine does hits all of them; the medians are reported.
func BenchmarkPeer(b *testing.B) {
	w := newBench(b)
	sub := w.ca.Intermediate(b, "sub")
	peer := sub.Leaf(b, "peer", testca.ECKey(b).Public())
	certs := []*x509.Certificate{peer, sub.Cert}
	roots, mid := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(w.ca.Cert)
	mid.AddCert(sub.Cert)
	const times = 50
	var alone, first, again []float64
	for b.Loop() {
		alone = append(alone, took(1, func() {
			_, err := peer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			require.NoError(b, err)
		}))
		first = append(first, took(1, func() {
			w.m.RevocationChanged()
			require.NoError(b, w.m.VerifyPeer(b.Context(), certs, pki.PeerOptions{}))
		}))
		again = append(again, took(times, func() {
			require.NoError(b, w.m.VerifyPeer(b.Context(), certs, pki.PeerOptions{}))
		}))
	}
	b.ReportMetric(median(alone), "x509-ns")
	b.ReportMetric(median(first), "uncached-ns")
	b.ReportMetric(median(again), "cached-ns")
	b.ReportMetric(median(first)/median(alone), "uncached/x509")
	b.ReportMetric(median(alone)/median(again), "x509/cached")
}

// took returns the nanoseconds of one call.
func took(n int, f func()) float64 {
	begin := time.Now()
	for range n {
		f()
	}
	return float64(time.Since(begin).Nanoseconds()) / float64(n)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// BenchmarkSweep is the cost of one look at 10,000 watched peers.
func BenchmarkSweep(b *testing.B) {
	const peers = 10_000
	w := newBench(b)
	key := testca.ECKey(b)
	for n := range peers {
		c := w.ca.Leaf(b, fmt.Sprintf("peer%d", n), key.Public())
		require.NoError(b, w.m.WatchPeer(b.Context(), pki.Peer{Name: fmt.Sprint(n), Certificates: []*x509.Certificate{c}}))
	}
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, w.m.Sweep(b.Context()))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/peers, "ns/peer")
	})
	b.Run("all again", func(b *testing.B) {
		for b.Loop() {
			w.m.RevocationChanged()
			require.NoError(b, w.m.Sweep(b.Context()))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/peers, "ns/peer")
	})
}
