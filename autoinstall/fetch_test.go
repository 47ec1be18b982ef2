package autoinstall_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/tftp"
	"github.com/mooringlib/mooring/autoinstall/tftp/tftptest"
)

func fetcher(t testing.TB, cfg autoinstall.FetchConfig) func(text string, limit int64) ([]byte, error) {
	t.Helper()
	f, err := autoinstall.NewFetcher(cfg)
	require.NoError(t, err)
	return func(text string, limit int64) ([]byte, error) {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return f.Fetch(t.Context(), u, nil, limit)
	}
}

func TestFetchHTTP(t *testing.T) {
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Error("compression was asked for")
		}
		_, _ = w.Write([]byte("configuration"))
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 101)) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "50")
		_, _ = w.Write([]byte("only this"))
	})
	mux.Handle("/moved", http.RedirectHandler("/ok", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler(elsewhere.URL, http.StatusFound))
	for name, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		t.Run(name, func(t *testing.T) {
			srv := start(mux)
			t.Cleanup(srv.Close)
			cfg := autoinstall.FetchConfig{}
			if name == "https" {
				pool := x509.NewCertPool()
				pool.AddCert(srv.Certificate())
				cfg.TLS = &tls.Config{RootCAs: pool}
				_, err := fetcher(t, autoinstall.FetchConfig{TLS: &tls.Config{RootCAs: x509.NewCertPool()}})(srv.URL+"/ok", 100)
				require.ErrorContains(t, err, "certificate")
			}
			fetch := fetcher(t, cfg)
			for _, path := range []string{"/ok", "/moved"} {
				b, err := fetch(srv.URL+path, 100)
				require.NoError(t, err)
				require.Equal(t, "configuration", string(b))
			}
			_, err := fetch(srv.URL+"/missing", 100)
			require.ErrorIs(t, err, autoinstall.ErrNotFound)
			for _, path := range []string{"/big", "/endless"} {
				_, err = fetch(srv.URL+path, 100)
				require.ErrorIs(t, err, autoinstall.ErrTooLarge)
			}
			for path, want := range map[string]string{"/error": "500", "/cut": "EOF", "/loop": "redirects", "/away": "another server"} {
				_, err = fetch(srv.URL+path, 100)
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestFetchHTTPSWithAClockThatForgotTheTime(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) }))
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	cfg := autoinstall.FetchConfig{TLS: &tls.Config{RootCAs: pool, Time: func() time.Time { return time.Unix(-3600, 0) }}}
	_, err := fetcher(t, cfg)(srv.URL, 100)
	require.ErrorContains(t, err, "not yet valid")
	cfg.ClockFloor = srv.Certificate().NotBefore.Add(time.Hour)
	_, err = fetcher(t, cfg)(srv.URL, 100)
	require.NoError(t, err)
	cfg.TLS.Time = func() time.Time { return srv.Certificate().NotAfter.Add(time.Hour) }
	_, err = fetcher(t, cfg)(srv.URL, 100)
	require.ErrorContains(t, err, "expired", "the floor is no ceiling")
}

func TestFetchTFTP(t *testing.T) {
	s := tftptest.NewServer(t, tftptest.Config{MaxBlock: 1468, MaxWindow: 8, File: func(name string) ([]byte, bool) {
		return bytes.Repeat([]byte("x"), 5000), name == "a b/SN1.enc"
	}})
	fetch := fetcher(t, autoinstall.FetchConfig{})
	urls, err := autoinstall.ServerURLs(s.Addr().String(), "a b/SN1.enc", "other")
	require.NoError(t, err)
	b, err := fetch(urls[0], 5000)
	require.NoError(t, err)
	require.Len(t, b, 5000)
	_, err = fetch(urls[0], 4999)
	require.ErrorIs(t, err, autoinstall.ErrTooLarge)
	_, err = fetch(urls[1], 5000)
	require.ErrorIs(t, err, autoinstall.ErrNotFound)
	_, err = fetch("tftp://127.0.0.1:0/x", 1)
	require.ErrorContains(t, err, "port")
	_, err = fetch("tftp://127.0.0.1:99999/x", 1)
	require.ErrorContains(t, err, "port")
}

func TestFetcherConfig(t *testing.T) {
	_, err := autoinstall.NewFetcher(autoinstall.FetchConfig{TLS: &tls.Config{InsecureSkipVerify: true}})
	require.ErrorContains(t, err, "InsecureSkipVerify")
	_, err = autoinstall.NewFetcher(autoinstall.FetchConfig{TFTP: tftp.Config{BlockSize: 1}})
	require.ErrorContains(t, err, "BlockSize")
}

func TestURLs(t *testing.T) {
	for server, want := range map[string]string{
		"192.0.2.1":                "tftp://192.0.2.1/f",
		"192.0.2.1:6969":           "tftp://192.0.2.1:6969/f",
		"tftp.example.net":         "tftp://tftp.example.net/f",
		"2001:db8::1":              "tftp://[2001:db8::1]/f",
		"[2001:db8::1]:69":         "tftp://[2001:db8::1]:69/f",
		"https://cfg.example.net":  "https://cfg.example.net/f",
		"http://h:8080/a/b/":       "http://h:8080/a/b/f",
		"https://h/a?token=public": "https://h/a/f?token=public",
	} {
		urls, err := autoinstall.ServerURLs(server, "f")
		require.NoError(t, err, server)
		require.Equal(t, []string{want}, urls)
	}
	for _, server := range []string{"", "ftp://h", "h/../x", "http://u:p@h", "http://h#f", "a b", "0.0.0.0", "1.2.3", "0x7f000001", "http://", "tftp://h?q", "http://h/%2e%2e/",
		"http://[::ffff:0.0.0.0]:8080/x", "tftp://[::ffff:224.0.0.1]", "http://[::ffff:255.255.255.255]"} {
		_, err := autoinstall.ServerURLs(server, "f")
		require.Error(t, err, server)
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"tftp://h/f", "http://h/%2e%2e/", "https://[::1]:1/a?b", "http://[fe80::1%25eth0]/f", "tftp:opaque", "http://h/\\x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := autoinstall.CheckURL(s)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 }) {
				t.Fatalf("error %q", err)
			}
			return
		}
		path := strings.Trim(u.Path, "/")
		if u.Host == "" || u.User != nil || path != "" && filepath.Clean(path) != path || strings.ContainsAny(path, "\x00\r\n\\") {
			t.Fatalf("%q passed", s)
		}
	})
}

func FuzzLoad(f *testing.F) {
	id := ecIdentity(f, "fuzz")
	f.Add(id.seal(f, []byte(config1)))
	f.Add([]byte(config1))
	f.Add([]byte("-----BEGIN PKCS7-----\n"))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := t.TempDir()
		d, err := autoinstall.New(autoinstall.Config{
			Serial: serialNumber, Dir: dir, EncryptedOnly: true, Keys: []autoinstall.Key{id.asKey("vendor")},
			Installer: autoinstall.NewFileInstaller(filepath.Join(dir, "cfg")),
		})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Load(context.Background(), file, autoinstall.Load{})
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("error %q", err)
		}
	})
}
