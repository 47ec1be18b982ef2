package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/internal/peer"
)

type pkitsCase struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Cert   string          `json:"cert"`
	Others []string        `json:"other_certs"`
	CRLs   []string        `json:"crls"`
	Error  json.RawMessage `json:"error"`
}

// needsLists are the sections whose cases test revocation lists.
func (c pkitsCase) needsLists() bool {
	switch c.ID[:3] {
	case "404", "405", "414", "415":
		return true
	}
	return c.ID == "40704" || c.ID == "40705"
}

func readCert(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	der, err := os.ReadFile(path)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

// TestPKITS runs the 76 cases of the NIST Public Key Interoperability Test
// Suite that need revocation lists. A path is accepted when crypto/x509 finds
// one on which we call every certificate good.
func TestPKITS(t *testing.T) {
	dir := peer.NeedTestdata(t, "pkits")
	data, err := os.ReadFile(filepath.Join(dir, "pkits.json"))
	require.NoError(t, err)
	var cases []pkitsCase
	require.NoError(t, json.Unmarshal(data, &cases))
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	anchor := readCert(t, filepath.Join(dir, "certs", "TrustAnchorRootCertificate.crt"))
	total, right, falseAccept := 0, 0, 0
	for _, c := range cases {
		if !c.needsLists() {
			continue
		}
		total++
		want := len(c.Error) == 0 || string(c.Error) == "null"
		got, why := pkitsAccepts(t, dir, c, anchor, now)
		if got == want {
			right++
			continue
		}
		if got {
			falseAccept++
		}
		t.Errorf("%s %s: accepted %t, should be %t\n%s", c.ID, c.Name, got, want, why)
	}
	t.Logf("%d of %d right, %d false accepts", right, total, falseAccept)
	require.Equal(t, 76, total)
}

func pkitsAccepts(t *testing.T, dir string, c pkitsCase, anchor *x509.Certificate, now time.Time) (bool, string) {
	t.Helper()
	var others []*x509.Certificate
	pool, roots := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(anchor)
	for _, o := range c.Others {
		cert := readCert(t, filepath.Join(dir, "certs", o))
		others = append(others, cert)
		pool.AddCert(cert)
	}
	m, err := crl.New(crl.Config{
		Directory: fastDir(t), Issuers: []*x509.Certificate{anchor}, Intermediates: others,
		Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	var log []string
	for _, name := range append([]string{"TrustAnchorRootCRL.crl"}, c.CRLs...) {
		data, err := os.ReadFile(filepath.Join(dir, "crls", name))
		require.NoError(t, err)
		if err := m.Import(context.Background(), bytes.NewReader(data), name); err != nil {
			log = append(log, name+": "+err.Error())
		}
	}
	leaf, err := crl.ParseCertificate(mustRead(t, filepath.Join(dir, "certs", c.Cert)))
	if err != nil {
		return false, err.Error()
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return false, err.Error()
	}
	for _, chain := range chains {
		good := true
		for i := range chain[:len(chain)-1] {
			r, steps := m.Explain(chain[i], chain[i+1])
			log = append(log, steps...)
			log = append(log, r.Status.String()+": "+r.Why)
			good = good && r.Status == crl.StatusGood
		}
		if good {
			return true, strings.Join(log, "\n")
		}
	}
	return false, strings.Join(log, "\n")
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}
