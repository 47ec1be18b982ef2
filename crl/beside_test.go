package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

// A conductor that withholds the next list must not un-revoke by that, however
// long it does, and whatever else comes into force meanwhile.
func TestWithholdingDoesNotUnrevoke(t *testing.T) {
	w := newWorld(t)
	w.start()
	bad := w.ca.Leaf(t, "bad")
	w.list(crltest.List{Number: 2, Entries: []crltest.Entry{entry(bad, 1)}})
	require.NoError(t, w.fetch())
	other := crltest.NewCA(t, "other", crltest.Options{})
	r := w.router()
	r.cfg.Issuers = append(r.cfg.Issuers, other.Cert)
	r.start()
	c := w.conductor()
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl"))
	require.Equal(t, crl.StatusRevoked, r.status(bad))

	r.pass(60 * 24 * time.Hour)
	list := other.Sign(t, crltest.List{Number: 1, ThisUpdate: r.clock().Add(-time.Minute), NextUpdate: r.clock().Add(time.Hour)})
	require.NoError(t, r.m.Import(t.Context(), bytes.NewReader(list), "by hand"))
	require.Equal(t, crl.StatusRevoked, r.status(bad))
	require.Contains(t, r.onlyAlarm(), "stays in force")
}

// A reader beside the manager that keeps the directory trusts other issuers. It
// must not mend what it does not understand.
func TestReadOnlyManagerWritesNothing(t *testing.T) {
	w := newWorld(t)
	other := crltest.NewCA(t, "other", crltest.Options{})
	w.cfg.Issuers = append(w.cfg.Issuers, other.Cert)
	w.start()
	bad := w.ca.Leaf(t, "bad")
	w.list(crltest.List{Number: 1, Entries: []crltest.Entry{entry(bad, 1)}})
	require.NoError(t, w.fetch())
	list := other.Sign(t, crltest.List{Number: 1, ThisUpdate: w.clock().Add(-time.Minute), NextUpdate: w.clock().Add(time.Hour)})
	require.NoError(t, w.m.Import(t.Context(), bytes.NewReader(list), "by hand"))

	reader, err := crl.New(crl.Config{Directory: w.cfg.Directory, Issuers: []*x509.Certificate{w.ca.Cert}, ReadOnly: true, Now: w.clock})
	require.NoError(t, err)
	require.NoError(t, reader.Load(t.Context()))
	require.Equal(t, crl.StatusRevoked, reader.Check(bad, w.ca.Cert).Status)
	generation := reader.RevocationGeneration()
	require.NoError(t, reader.Load(t.Context()))
	require.Equal(t, generation, reader.RevocationGeneration(), "nothing new was published")

	master := filepath.Join(w.cfg.Directory, "master.crl-index")
	data, err := os.ReadFile(master)
	require.NoError(t, err)
	data[len(data)/2] ^= 1
	require.NoError(t, os.WriteFile(master+".new", data, 0o600))
	require.NoError(t, os.Rename(master+".new", master))
	before := tree(t, w.cfg.Directory)
	require.ErrorIs(t, reader.Load(t.Context()), crl.ErrDamaged)
	require.Equal(t, crl.StatusRevoked, reader.Check(bad, w.ca.Cert).Status, "what was in force stays")
	require.Error(t, reader.Import(t.Context(), bytes.NewReader(list), "x"))
	require.Error(t, reader.Fetch(t.Context()))
	require.Equal(t, before, tree(t, w.cfg.Directory), "and nothing was written")

	require.NoError(t, w.m.Load(t.Context()), "the keeper mends it")
	require.NoError(t, reader.Load(t.Context()))
	require.Greater(t, reader.RevocationGeneration(), generation)
	require.Len(t, w.m.Lists(), 2)
}

// tree maps every file to its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	}))
	return out
}

// Being stopped in the middle of a fetch is no fault of the source.
func TestStoppedFetchBlamesNobody(t *testing.T) {
	w := newWorld(t)
	w.start()
	ctx, cancel := context.WithCancel(t.Context())
	w.serve(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	require.Error(t, w.m.Fetch(ctx))
	w.noAlarm()
	require.Zero(t, w.m.Counters().FetchFailure)
}
