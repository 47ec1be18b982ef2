package source_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/downloadtest"
	"github.com/mooringlib/mooring/download/peer"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

func newRepo(t testing.TB) (dir string, m *repo.Manifest, data []byte) {
	data = make([]byte, 100_000)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	name := filepath.Join(t.TempDir(), "v-1.img")
	require.NoError(t, os.WriteFile(name, data, 0o600))
	dir = t.TempDir()
	made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: ed25519.NewKeyFromSeed(make([]byte, 32)), ChunkSize: 32 << 10}, name)
	require.NoError(t, err)
	return dir, made[0], data
}

func fault(t *testing.T, err error) download.Fault {
	t.Helper()
	var se *download.SourceError
	require.ErrorAs(t, err, &se)
	return se.Fault
}

func TestBothSourcesReadARepository(t *testing.T) {
	dir, m, data := newRepo(t)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	web, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
	require.NoError(t, err)
	folder, err := source.NewDir(dir)
	require.NoError(t, err)
	for _, f := range []download.Fetcher{web, folder} {
		x, err := f.Index(t.Context())
		require.NoError(t, err)
		require.Len(t, x.Images, 1)
		list, err := f.ChunkList(t.Context(), m)
		require.NoError(t, err)
		_, err = m.ParseChunkList(list)
		require.NoError(t, err)
		for range 2 { // the second time with If-Range
			b, err := f.Open(t.Context(), m, 5000, 300)
			require.NoError(t, err)
			got, err := io.ReadAll(b)
			require.NoError(t, err)
			require.NoError(t, b.Close())
			require.Equal(t, data[5000:5300], got)
			require.EqualValues(t, 5000, b.Offset)
			require.False(t, b.Whole)
		}
	}
	handler, err := peer.New(peer.Config{Dir: dir})
	require.NoError(t, err)
	node := httptest.NewServer(handler)
	defer node.Close()
	fromPeer, err := source.NewHTTP(source.HTTPConfig{URL: node.URL})
	require.NoError(t, err)
	for name, f := range map[string]download.Fetcher{"http": web, "dir": folder, "peer": fromPeer} {
		t.Run(name, func(t *testing.T) { downloadtest.Fetcher(t, f, m, data) })
	}
}

func TestAnswers(t *testing.T) {
	_, m, data := newRepo(t)
	size := len(data)
	head := func(status int, pairs ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(pairs); i += 2 {
				w.Header().Add(pairs[i], pairs[i+1])
			}
			w.WriteHeader(status)
		}
	}
	cr := "Content-Range"
	for name, tc := range map[string]struct {
		h    http.HandlerFunc
		want download.Fault
	}{
		"start above asked":     {head(206, cr, fmt.Sprintf("bytes 101-199/%d", size)), download.FaultProtocol},
		"end above asked":       {head(206, cr, fmt.Sprintf("bytes 100-200/%d", size)), download.FaultProtocol},
		"ends before asked":     {head(206, cr, fmt.Sprintf("bytes 0-99/%d", size)), download.FaultProtocol},
		"other total":           {head(206, cr, fmt.Sprintf("bytes 100-199/%d", size+1)), download.FaultProtocol},
		"no content-range":      {head(206), download.FaultProtocol},
		"two content-ranges":    {head(206, cr, fmt.Sprintf("bytes 100-199/%d", size), cr, fmt.Sprintf("bytes 100-199/%d", size)), download.FaultProtocol},
		"odd content-range":     {head(206, cr, "bytes=100-199"), download.FaultProtocol},
		"length does not fit":   {head(206, cr, fmt.Sprintf("bytes 100-199/%d", size), "Content-Length", "7"), download.FaultProtocol},
		"several parts":         {head(206, "Content-Type", "multipart/byteranges; boundary=x"), download.FaultProtocol},
		"compressed":            {head(206, "Content-Encoding", "gzip", cr, fmt.Sprintf("bytes 100-199/%d", size)), download.FaultProtocol},
		"whole, other size":     {head(200, "Content-Length", fmt.Sprint(size+1)), download.FaultProtocol},
		"range refused":         {head(416, cr, fmt.Sprintf("bytes */%d", size)), download.FaultProtocol},
		"gone":                  {head(410), download.FaultNotFound},
		"forbidden":             {head(403), download.FaultForbidden},
		"unauthorized":          {head(401), download.FaultForbidden},
		"too many":              {head(429), download.FaultBusy},
		"busy with a date":      {head(503, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"), download.FaultBusy},
		"unavailable":           {head(503), download.FaultStatus},
		"broken":                {head(500), download.FaultStatus},
		"redirected for ever":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, download.FaultProtocol},
		"connection reset":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, download.FaultConnection},
		"redirected to another": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "ftp://x/", http.StatusFound) }, download.FaultConnection},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tc.h)
			defer server.Close()
			h, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
			require.NoError(t, err)
			_, err = h.Open(t.Context(), m, 100, 100)
			require.Equal(t, tc.want, fault(t, err))
		})
	}
}

func TestRequestsAsWeMeanThem(t *testing.T) {
	dir, m, _ := newRepo(t)
	var seen atomic.Pointer[http.Request]
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r)
		if r.Header.Get("If-Range") != "" {
			r.Header.Del("Range") // a server that forgets the range when it sees If-Range
		}
		w.Header().Set("ETag", `"strong"`)
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	h, err := source.NewHTTP(source.HTTPConfig{URL: server.URL + "/"})
	require.NoError(t, err)
	open := func() {
		b, err := h.Open(t.Context(), m, 10, 20)
		require.NoError(t, err)
		require.False(t, b.Whole)
		require.NoError(t, b.Close())
		r := seen.Load()
		require.Equal(t, []string{"bytes=10-29"}, r.Header.Values("Range"))
		require.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
		require.Empty(t, r.Header.Get("If-Range"))
	}
	open()
	open() // with the validator it gets everything, so it asks again without
	open() // and remembers
}

func TestTLS(t *testing.T) {
	dir, m, _ := newRepo(t)
	server := httptest.NewTLSServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	server.Config.ErrorLog = nil
	h, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
	require.NoError(t, err)
	_, err = h.Index(t.Context())
	require.Equal(t, download.FaultTLS, fault(t, err), "an unknown authority")

	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	h, err = source.NewHTTP(source.HTTPConfig{URL: server.URL, TLS: &tls.Config{RootCAs: roots}})
	require.NoError(t, err)
	_, err = h.Index(t.Context())
	require.NoError(t, err)

	h, err = source.NewHTTP(source.HTTPConfig{URL: server.URL, TLS: &tls.Config{RootCAs: roots, ServerName: "other.invalid"}})
	require.NoError(t, err)
	_, err = h.Open(t.Context(), m, 0, 10)
	require.Equal(t, download.FaultTLS, fault(t, err), "another name")

	plain := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer plain.Close()
	u, err := url.Parse(plain.URL)
	require.NoError(t, err)
	h, err = source.NewHTTP(source.HTTPConfig{URL: "https://" + u.Host})
	require.NoError(t, err)
	_, err = h.Index(t.Context())
	require.Error(t, err, "no TLS at all")

	down := httptest.NewTLSServer(http.RedirectHandler(plain.URL+"/index.json", http.StatusFound))
	defer down.Close()
	roots.AddCert(down.Certificate())
	h, err = source.NewHTTP(source.HTTPConfig{URL: down.URL, TLS: &tls.Config{RootCAs: roots}})
	require.NoError(t, err)
	_, err = h.Index(t.Context())
	require.ErrorContains(t, err, "from https to")
}

func TestConfigIsChecked(t *testing.T) {
	for _, u := range []string{"", "ftp://x/", "http://", "http://x/?q", "http://x/#f", "x", "http://%zz/"} {
		_, err := source.NewHTTP(source.HTTPConfig{URL: u})
		require.Error(t, err, u)
	}
	_, err := source.NewHTTP(source.HTTPConfig{URL: "https://x/", TLS: &tls.Config{InsecureSkipVerify: true}})
	require.ErrorContains(t, err, "does not verify")
	_, err = source.NewDir("")
	require.Error(t, err)
}

func TestIndexIsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 1<<20)
		for range 10 {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	h, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
	require.NoError(t, err)
	_, err = h.Index(t.Context())
	require.Equal(t, download.FaultProtocol, fault(t, err))
}

// A dead link that is back answers a new SYN at once, and an old one late.
func TestDialIsBegunAgainEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		back := time.Now().Add(10500 * time.Millisecond)
		h, err := source.NewHTTP(source.HTTPConfig{URL: "http://192.0.2.1/", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			if time.Now().Before(back) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			client, server := net.Pipe()
			go func() {
				buf := make([]byte, 1024)
				_, _ = server.Read(buf)
				_, _ = server.Write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
				_ = server.Close()
			}()
			return client, nil
		}})
		require.NoError(t, err)
		begin := time.Now()
		_, err = h.Index(t.Context())
		require.Equal(t, download.FaultNotFound, fault(t, err))
		require.Equal(t, 11*time.Second, time.Since(begin))
		require.EqualValues(t, 12, dials.Load())

		refused := errors.New("refused")
		h, err = source.NewHTTP(source.HTTPConfig{URL: "http://192.0.2.1/", Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }})
		require.NoError(t, err)
		begin = time.Now()
		_, err = h.Index(t.Context())
		require.ErrorIs(t, err, refused)
		require.Zero(t, time.Since(begin), "a refusal is told at once")
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes */10", "bytes 0-9/*", "bytes 5-4/10", "bytes -1-4/10", "Bytes 1-2/3", "bytes 0-99999999999999999999/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, err := source.ParseContentRange(s)
		if err != nil {
			return
		}
		if first >= 0 {
			require.LessOrEqual(t, first, last)
			require.True(t, total < 0 || last < total)
		} else {
			require.GreaterOrEqual(t, total, int64(0))
		}
	})
}
