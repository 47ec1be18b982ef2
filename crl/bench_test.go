package crl_test

import (
	"context"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/name"
)

// BenchmarkMaster measures what a list costs once it was read: the index on
// disk, a lookup, a whole answer, an update of 100 entries from fetch to
// answer, and a list that did not change. Ten million entries take
// MOORING_BENCH_LARGE=1.
func BenchmarkMaster(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000, 10_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			if n > 1_000_000 && os.Getenv("MOORING_BENCH_LARGE") == "" {
				b.Skip("MOORING_BENCH_LARGE=1 is not set")
			}
			benchMaster(b, n)
		})
	}
}

func benchMaster(b *testing.B, n int) {
	ca := crltest.NewCA(b, "CA", crltest.Options{})
	dir := fastDir(b)
	m, err := crl.New(crl.Config{
		Directory: filepath.Join(dir, "state"), Issuers: []*x509.Certificate{ca.Cert}, Now: func() time.Time { return crltest.Now },
		MaxListBytes: 2 << 30, MaxEntries: 16 << 20,
	})
	require.NoError(b, err)
	bring := func(number int64, from, to int) time.Duration {
		path := filepath.Join(dir, "list")
		f, err := os.Create(path)
		require.NoError(b, err)
		defer f.Close()
		ca.Stream(b, f, number, func(yield func(int) bool) {
			for i := from; i < to && yield(i); i++ {
			}
		}, to-from)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(b, err)
		start := time.Now()
		require.NoError(b, m.Import(context.Background(), f, "bench"))
		return time.Since(start)
	}
	metrics := map[string]float64{
		"first-ms":         bring(1, 0, n).Seconds() * 1000,
		"update-of-100-ms": bring(2, 100, n+100).Seconds() * 1000,
	}
	again, err := os.Open(filepath.Join(dir, "list"))
	require.NoError(b, err)
	defer again.Close()
	start := time.Now()
	require.NoError(b, m.Import(context.Background(), again, "bench"))
	metrics["unchanged-ms"] = time.Since(start).Seconds() * 1000

	f, err := master.Open(filepath.Join(dir, "state", "master.crl-index"))
	require.NoError(b, err)
	metrics["B/entry"] = float64(f.IndexSize(0)) / float64(n)
	key, err := name.KeyOf(ca.Cert.RawSubject)
	require.NoError(b, err)
	serial := crltest.Serials(0)
	// The serial numbers are made before, since making them takes as long as
	// finding them.
	keys := make([][16]byte, 1<<16)
	for i := range keys {
		serial(100+i*max(n/len(keys), 1)%n, &keys[i])
	}
	missing := crltest.Serials(1 << 40)
	misses := make([][16]byte, 1<<16)
	for i := range misses {
		missing(i, &misses[i])
	}
	look := func(keys [][16]byte, want bool) float64 {
		// Short batches, each of other keys, so that other load hits some of them
		// only; the least counts.
		const batch = 1024
		best := time.Hour
		for range 10 {
			for i := 0; i < len(keys); i += batch {
				start := time.Now()
				for j := i; j < i+batch; j++ {
					if _, ok := f.Find(0, key, keys[j][:], false); ok != want {
						b.Fatal("wrong answer")
					}
				}
				best = min(best, time.Since(start))
			}
		}
		return float64(best.Nanoseconds()) / batch
	}
	metrics["hit-ns"] = look(keys, true)
	metrics["miss-ns"] = look(misses, false)
	cert := ca.Leaf(b, "leaf")
	b.ReportAllocs()
	for b.Loop() {
		if m.Check(cert, ca.Cert).Status != crl.StatusGood {
			b.Fatal("wrong answer")
		}
	}
	for what, v := range metrics {
		b.ReportMetric(v, what)
	}
}
