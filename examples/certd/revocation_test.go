package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/pki/pkitest"
)

// TestRevocation joins the two packages: lists that one manager has taken in
// decide about certificates that the other is handed.
func TestRevocation(t *testing.T) {
	t.Parallel()
	dir, lists, file := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "crl"), filepath.Join(t.TempDir(), "f")
	certd(t, "init", "-dir", dir, "-crl-dir", lists)
	ca := newAuthority(t)
	require.NoError(t, os.WriteFile(file, []byte(ca.pem()), 0o600))
	certd(t, "trust", "add", "-dir", dir, "-name", "customer", "-file", file)
	csr := certd(t, "csr", "-dir", dir, "-name", "n", "-common-name", "c", "-algorithm", "ECC")
	good, bad := ca.sign(t, csr), ca.sign(t, csr)
	ingest := func(text string) (string, error) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "certd", "ingest", "-dir", dir, "-name", "n", "-certificate", file).CombinedOutput()
		return string(out), err
	}
	out, err := ingest(good)
	require.Error(t, err)
	require.Contains(t, out, "revocation-unknown")

	block, _ := pem.Decode([]byte(bad))
	revoked, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.SerialNumber, RevocationTime: time.Now().Add(-time.Minute), ReasonCode: 1}},
	}, ca.cert, ca.key)
	require.NoError(t, err)
	m, err := crl.New(crl.Config{Directory: lists, Issuers: []*x509.Certificate{ca.cert}})
	require.NoError(t, err)
	require.NoError(t, m.Load(t.Context()))
	require.NoError(t, m.Import(t.Context(), bytes.NewReader(der), "test"))

	out, err = ingest(good)
	require.NoError(t, err, out)
	require.Contains(t, out, "check revocation: passed")
	out, err = ingest(bad)
	require.Error(t, err)
	require.Contains(t, out, "keyCompromise")

	// Lists of other issuers are left alone.
	other := newAuthority(t)
	der, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
	}, other.cert, other.key)
	require.NoError(t, err)
	both := func() *crl.Manager {
		m, err := crl.New(crl.Config{Directory: lists, Issuers: []*x509.Certificate{ca.cert, other.cert}})
		require.NoError(t, err)
		require.NoError(t, m.Load(t.Context()))
		return m
	}
	require.NoError(t, both().Import(t.Context(), bytes.NewReader(der), "test"))
	tree := func() map[string]string {
		files := map[string]string{}
		require.NoError(t, filepath.WalkDir(lists, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			files[path] = string(data)
			return err
		}))
		return files
	}
	// Damage is for the keeper of the directory to mend.
	master := filepath.Join(lists, "master.crl-index")
	data, err := os.ReadFile(master)
	require.NoError(t, err)
	data[len(data)/2] ^= 1
	require.NoError(t, os.WriteFile(master+".new", data, 0o600))
	require.NoError(t, os.Rename(master+".new", master))
	before := tree()
	out, err = ingest(good)
	require.Error(t, err)
	require.Contains(t, out, "revocation-unknown")
	require.Equal(t, before, tree())
	require.Len(t, both().Lists(), 2)
	out, err = ingest(good)
	require.NoError(t, err, out)

	// The adapter is what package pki asks for.
	third := newAuthority(t)
	parse := func(text string) *x509.Certificate {
		block, _ := pem.Decode([]byte(text))
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		return c
	}
	pkitest.Revocation(t, &revocation{dir: lists}, pkitest.Cases{
		Issuer: ca.cert, Good: parse(good), Revoked: revoked, Unknown: parse(third.sign(t, csr)), UnknownIssuer: third.cert,
	})
}
