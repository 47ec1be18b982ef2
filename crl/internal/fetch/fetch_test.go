package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/fetch"
)

const limit = 1 << 20

func get(t *testing.T, r fetch.Request) ([]byte, *fetch.Response, error) {
	t.Helper()
	if r.Limit == 0 {
		r.Limit = limit
	}
	c := fetch.New(nil)
	defer c.CloseIdle()
	resp, err := c.Get(context.Background(), r)
	if err != nil {
		return nil, nil, err
	}
	if resp.NotModified {
		return nil, resp, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return data, resp, err
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestBrokenTransferIsTakenUpAgain(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 20_000)
	var calls atomic.Int32
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"one"`)
		if calls.Add(1) < 3 {
			w = &cut{ResponseWriter: w, left: 50_000}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	got, resp, err := get(t, fetch.Request{URL: url})
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	require.Equal(t, `"one"`, resp.ETag)
	require.EqualValues(t, 3, calls.Load())
}

// cut breaks the connection after some bytes.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestBrokenTransferThatChangedIsAnError(t *testing.T) {
	var calls atomic.Int32
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, calls.Add(1)))
		http.ServeContent(&cut{ResponseWriter: w, left: 5000}, r, "", time.Time{}, bytes.NewReader(make([]byte, 9000)))
	})
	_, _, err := get(t, fetch.Request{URL: url})
	require.ErrorContains(t, err, "changed meanwhile")
}

func TestNotModified(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"x"` || r.Header.Get("If-Modified-Since") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write([]byte("new"))
	})
	_, resp, err := get(t, fetch.Request{URL: url, ETag: `"x"`})
	require.NoError(t, err)
	require.True(t, resp.NotModified)
	got, _, err := get(t, fetch.Request{URL: url})
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	always := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) })
	_, _, err = get(t, fetch.Request{URL: always})
	require.ErrorContains(t, err, "304")
}

func TestHostileServers(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"redirect loop": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, "more than 5 redirects"},
		"to a file": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}, "is not followed"},
		"web page":      {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>log in")) }, "login page"},
		"error":         {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, "503"},
		"says too long": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "2147483648") }, "more than the limit"},
		"never ends": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/pkix-crl")
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, "longer than the limit"},
		"compressed": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte{1})
		}, "content encoding"},
		"huge header": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "header"},
		"drops":       {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write(make([]byte, 50))
		}, "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := get(t, fetch.Request{URL: serve(t, c.h)})
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "127.0.0.1", "the caller names the address")
		})
	}
}

func TestSlowServers(t *testing.T) {
	trickle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/pkix-crl")
		for tick := time.NewTicker(2 * time.Millisecond); r.Context().Err() == nil; <-tick.C {
			_, _ = w.Write([]byte{0})
			_ = http.NewResponseController(w).Flush()
		}
	}
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/pkix-crl")
		_, _ = w.Write([]byte{0})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	const long = time.Hour
	for name, c := range map[string]struct {
		h                  http.HandlerFunc
		idle, total, grace time.Duration
		want               string
	}{
		"sends nothing":      {silent, 50 * time.Millisecond, long, long, "nothing for too long"},
		"takes too long":     {trickle, long, 100 * time.Millisecond, long, "took longer than 100ms"},
		"sends a byte a day": {trickle, long, long, 50 * time.Millisecond, "too slow"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fetch.New(nil)
			defer client.CloseIdle()
			client.SetTimes(c.idle, c.total, c.grace)
			resp, err := client.Get(t.Context(), fetch.Request{URL: serve(t, c.h), Limit: limit})
			require.NoError(t, err)
			defer resp.Body.Close()
			_, err = io.ReadAll(resp.Body)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestAddressesFromCertificatesStayOutside(t *testing.T) {
	called := false
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { called = true })
	_, _, err := get(t, fetch.Request{URL: url, Guarded: true})
	require.ErrorIs(t, err, fetch.ErrPrivate)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	_, _, err = get(t, fetch.Request{URL: "http://localhost:" + port, Guarded: true})
	require.ErrorIs(t, err, fetch.ErrPrivate)
	require.False(t, called)
	for addr, public := range map[string]bool{
		"127.0.0.1": false, "10.1.1.1": false, "192.168.1.1": false, "172.16.0.1": false, "169.254.169.254": false,
		"0.0.0.0": false, "100.64.0.1": false, "::1": false, "fe80::1": false, "fd00::1": false, "::ffff:10.0.0.1": false,
		"64:ff9b::a00:1": false, "224.0.0.1": false, "255.255.255.255": false, "8.8.8.8": true, "2606:4700::1": true,
	} {
		require.Equal(t, public, fetch.Public(netip.MustParseAddr(addr)), addr)
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.crl")
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	got, _, err := get(t, fetch.Request{URL: "file://" + path})
	require.NoError(t, err)
	require.Equal(t, "content", string(got))
	_, _, err = get(t, fetch.Request{URL: "file://" + path, Guarded: true})
	require.Error(t, err)
	_, _, err = get(t, fetch.Request{URL: "file:///dev/zero"})
	require.ErrorContains(t, err, "no regular file")
}

func TestAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"ldap://host/cn=x":  "ldap is not supported",
		"ftp://host/x":      "scheme is not",
		"http:///x":         "no host",
		"file://host/x":     "no local file",
		"http://[::1":       "malformed",
		"https://host/x":    "",
		"file:///tmp/x.crl": "",
	} {
		err := fetch.Check(url)
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
	require.Equal(t, "http://host/x", fetch.Redact("http://user:pass@host/x"))
}
