package pki_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/verify"
)

func FuzzIngest(f *testing.F) {
	b := newBench(f)
	csr := b.csr(f, "n")
	c := b.ca.Sign(f, csr)
	f.Add(testca.PEM(c))
	f.Add(testca.PEM(b.ca.Cert, c))
	f.Add(csr)
	f.Add([]byte("-----BEGIN CERTIFICATE-----MIIB-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := b.m.Ingest(t.Context(), "n", text)
		if len(report.Checks) != 3 || report.Accepted != (err == nil) {
			t.Fatalf("%+v, %v", report, err)
		}
		var refused *verify.Failure
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if _, err := b.m.AddTrust(t.Context(), "t", text, pki.Warn); err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	b := newBench(f)
	b.csr(f, "n")
	for _, s := range []string{
		`{"name":"n","common_name":"c"}`, `{"name":"n","common_name":"c","country_name":"US","subject_alt_names":["a.example","IP:::1","URI:x://y","email:a@b"]}`,
		`{"name":"n","common_name":"c","rsa_key_size":"2048","algorithm":"RSA"}`, `{"name":"n","common_name":"\u0000"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r pki.Request
		if json.Unmarshal(data, &r) != nil {
			return
		}
		r.Name = "n" // the key that is there
		if _, err := b.m.CreateRequest(t.Context(), r); err == nil && r.CommonName == "" {
			t.Fatal("no common name")
		}
	})
}

// BenchmarkPeer compares what a handshake costs: path validation by crypto/x509
// alone, by us for the first time, and by us from memory.
func BenchmarkPeer(b *testing.B) {
	w := newBench(b)
	sub := w.ca.Intermediate(b, "sub")
	peer := sub.Leaf(b, "peer", testca.ECKey(b).Public())
	certs := []*x509.Certificate{peer, sub.Cert}
	roots, mid := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(w.ca.Cert)
	mid.AddCert(sub.Cert)
	b.Run("x509", func(b *testing.B) {
		for b.Loop() {
			_, err := peer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			require.NoError(b, err)
		}
	})
	b.Run("uncached", func(b *testing.B) {
		for b.Loop() {
			w.m.RevocationChanged()
			require.NoError(b, w.m.VerifyPeer(b.Context(), certs, pki.PeerOptions{}))
		}
	})
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, w.m.VerifyPeer(b.Context(), certs, pki.PeerOptions{}))
		}
	})
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
