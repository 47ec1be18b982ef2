package crl_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

// router is a second world with the same authority and a directory of its own.
func (w *world) router() *world {
	r := newWorld(w.t)
	r.ca = w.ca
	r.now = w.now
	r.cfg.Issuers, r.cfg.URLs = []*x509.Certificate{w.ca.Cert}, nil
	r.start()
	return r
}

// conductor shares a world's lists and counts the bytes that it sends.
type conductor struct {
	*httptest.Server
	sent  atomic.Int64
	paths sync.Map
}

func (w *world) conductor() *conductor {
	c := &conductor{}
	h := w.m.Handler()
	c.Server = httptest.NewServer(http.StripPrefix("/crl", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c.paths.Store(r.URL.Path, true)
		h.ServeHTTP(&countingWriter{rw, &c.sent}, r)
	})))
	w.t.Cleanup(c.Close)
	return c
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

func numbered(n int) (out []crltest.Entry) {
	serial := crltest.Serials(9)
	var b [16]byte
	for i := range n {
		serial(i, &b)
		out = append(out, crltest.Entry{Serial: new(big.Int).SetBytes(b[:]), Reason: 1})
	}
	return out
}

func TestRouterCatchesUpAfterAMonth(t *testing.T) {
	w := newWorld(t)
	w.start()
	all := numbered(2100)
	w.list(crltest.List{Number: 1, Entries: all[:2000]})
	require.NoError(t, w.fetch())
	r := w.router()
	c := w.conductor()
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl"))
	require.Equal(t, 2000, r.m.Lists()[0].Entries)
	whole := c.sent.Load()
	for day := range 31 {
		w.pass(23 * time.Hour)
		r.pass(23 * time.Hour)
		w.list(crltest.List{Number: int64(day + 2), Entries: all[day : 2003+3*day]})
		require.NoError(t, w.fetch())
	}
	c.sent.Store(0)
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl/"))
	require.Equal(t, "32", r.m.Lists()[0].Number)
	require.Equal(t, w.m.Lists()[0].Entries, r.m.Lists()[0].Entries)
	require.Less(t, c.sent.Load(), whole/3, "31 versions cost less than a third of one")
	r.noAlarm()
	c.sent.Store(0)
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl"))
	require.Less(t, c.sent.Load(), int64(10_000), "nothing new costs the manifest")

	// Routers can share further.
	second, c2 := w.router(), r.conductor()
	require.NoError(t, second.m.Sync(t.Context(), c2.URL+"/crl"))
	require.Equal(t, "32", second.m.Lists()[0].Number)
}

// TestConductorCanNotUnrevoke has a conductor that lies in every way it can.
func TestConductorCanNotUnrevoke(t *testing.T) {
	w := newWorld(t)
	w.start()
	bad := w.ca.Leaf(t, "bad")
	before := w.list(crltest.List{Number: 1})
	after := w.ca.Sign(t, crltest.List{Number: 2, Entries: []crltest.Entry{entry(bad, 1)}})
	forged := crltest.NewCA(t, "CA", crltest.Options{}).Sign(t, crltest.List{Number: 9, NoKeyID: true})
	r := w.router()
	require.NoError(t, r.m.Import(t.Context(), bytes.NewReader(after), "x"))
	for name, c := range map[string]struct {
		manifest string
		list     []byte
		want     string
	}{
		"older list":   {`{"lists":[{"id":"%s","line":"l","size":10}]}`, before, "goes back"},
		"forged list":  {`{"lists":[{"id":"%s","line":"l","size":10}]}`, forged, "does not verify"},
		"no manifest":  {`<html>`, nil, "no manifest"},
		"strange name": {`{"lists":[{"id":"../../etc/passwd"}]}`, nil, "manifest names a list"},
		"no list":      {`{"lists":[{"id":"%s","line":"l","size":10}]}`, nil, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.Repeat("ab", 32)
			s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
				switch {
				case req.URL.Path == "/v1/manifest" && strings.Contains(c.manifest, "%s"):
					fmt.Fprintf(rw, c.manifest, id)
				case req.URL.Path == "/v1/manifest":
					rw.Header().Set("Content-Type", "application/json")
					fmt.Fprint(rw, c.manifest)
				case c.list != nil:
					_, _ = rw.Write(c.list)
				default:
					http.NotFound(rw, req)
				}
			}))
			defer s.Close()
			require.ErrorContains(t, r.m.Sync(t.Context(), s.URL), c.want)
			require.Contains(t, r.onlyAlarm(), s.URL)
			require.Equal(t, crl.StatusRevoked, r.status(bad))
			delete(r.alarms, "crl.sync/"+s.URL)
		})
	}
	require.Error(t, r.m.Sync(t.Context(), "file:///etc"))
}

func TestWrongPatchCostsTheWholeList(t *testing.T) {
	w := newWorld(t)
	w.start()
	all := numbered(600)
	w.list(crltest.List{Number: 1, Entries: all[:500]})
	require.NoError(t, w.fetch())
	r, c := w.router(), w.conductor()
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl"))
	w.list(crltest.List{Number: 2, Entries: all[:550]})
	require.NoError(t, w.fetch())
	patches, err := filepath.Glob(filepath.Join(w.cfg.Directory, "patches", "*"))
	require.NoError(t, err)
	require.Len(t, patches, 1)
	data := mustRead(t, patches[0])
	data[len(data)/2] ^= 4
	writeFile(t, patches[0], data)
	require.NoError(t, r.m.Sync(t.Context(), c.URL+"/crl"))
	require.Equal(t, "2", r.m.Lists()[0].Number)
	r.noAlarm()
}

func TestHandlerServesRangesAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.start()
	der := w.list(crltest.List{Entries: numbered(50)})
	require.NoError(t, w.fetch())
	c := w.conductor()
	get := func(path, rng string) (int, []byte) {
		req, err := http.NewRequest(http.MethodGet, c.URL+"/crl"+path, nil)
		require.NoError(t, err)
		if rng != "" {
			req.Header.Set("Range", rng)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var b bytes.Buffer
		_, err = b.ReadFrom(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, b.Bytes()
	}
	status, body := get("/v1/manifest", "")
	require.Equal(t, 200, status)
	var doc struct {
		Lists []struct{ ID string }
	}
	require.NoError(t, json.Unmarshal(body, &doc))
	status, body = get("/v1/lists/"+doc.Lists[0].ID, "bytes=100-")
	require.Equal(t, 206, status)
	require.Equal(t, der[100:], body)
	require.NoError(t, os.WriteFile(filepath.Join(w.cfg.Directory, "lists", "secret.crl"), []byte("x"), 0o600))
	for _, path := range []string{"/v1/lists/secret", "/v1/lists/..%2fmarks.json", "/v1/lists/" + strings.Repeat("0", 64), "/v1/patches/x", "/", "/v1/state.json"} {
		status, _ = get(path, "")
		require.Equal(t, 404, status, path)
	}
	resp, err := http.Post(c.URL+"/crl/v1/manifest", "text/plain", nil)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 405, resp.StatusCode)
}
