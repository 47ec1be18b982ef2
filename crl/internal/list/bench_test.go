package list_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/list"
)

// BenchmarkMillion compares the steps at one million entries with SHA-256 of
// the same bytes and with crypto/x509.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	ca := crltest.NewCA(b, "CA", crltest.Options{Key: crltest.RSAKey(b, 2048)})
	path := filepath.Join(b.TempDir(), "crl")
	f, err := os.Create(path)
	require.NoError(b, err)
	ca.Stream(b, f, 1, crltest.UpTo(n), n)
	size, err := f.Seek(0, io.SeekEnd)
	require.NoError(b, err)
	bench := func(name string, op func(b *testing.B, f *os.File)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				in, err := os.Open(path)
				require.NoError(b, err)
				op(b, in)
				in.Close()
			}
		})
	}
	bench("sha256", func(b *testing.B, f *os.File) {
		h := sha256.New()
		_, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10))
		require.NoError(b, err)
	})
	lim := list.Limits{Bytes: 1 << 30, Entries: n}
	bench("spool", func(b *testing.B, f *os.File) {
		out, err := os.Create(filepath.Join(b.TempDir(), "spool"))
		require.NoError(b, err)
		_, err = list.Spool(context.Background(), out, f, lim)
		require.NoError(b, err)
		out.Close()
	})
	bench("reread", func(b *testing.B, f *os.File) {
		_, err = list.Reread(context.Background(), f, size, lim)
		require.NoError(b, err)
	})
	bench("reread+parse+sort", func(b *testing.B, f *os.File) {
		s, err := list.Reread(context.Background(), f, size, lim)
		require.NoError(b, err)
		v, err := s.Verify(ca.Cert.PublicKey)
		require.NoError(b, err)
		_, err = v.Entries(context.Background())
		require.NoError(b, err)
	})
	bench("x509", func(b *testing.B, f *os.File) {
		data, err := io.ReadAll(f)
		require.NoError(b, err)
		l, err := x509.ParseRevocationList(bytes.Clone(data))
		require.NoError(b, err)
		require.NoError(b, l.CheckSignatureFrom(ca.Cert))
	})
}
