package peer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/peer"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

const version = "SSR-7"

type lab struct {
	dir  string
	data []byte
	m    *repo.Manifest
	ver  *repo.Verifier
}

func newLab(t testing.TB, size int) *lab {
	l := &lab{dir: filepath.Join(t.TempDir(), "repo"), data: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte{9}).Read(l.data)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	name := filepath.Join(t.TempDir(), version+".img")
	require.NoError(t, os.WriteFile(name, l.data, 0o600))
	made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: l.dir, Key: key}, name)
	require.NoError(t, err)
	l.m = made[0]
	l.ver, err = repo.NewVerifier(key.Public())
	require.NoError(t, err)
	return l
}

func serve(t testing.TB, dir string, bits int64) string {
	h, err := peer.New(peer.Config{Dir: dir, MaxBandwidth: bits})
	require.NoError(t, err)
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func (l *lab) downloader(t testing.TB, state string, bits int64, urls ...string) *download.Downloader {
	var sources []download.Source
	for i, u := range urls {
		f, err := source.NewHTTP(source.HTTPConfig{URL: u, MaxBandwidth: bits})
		require.NoError(t, err)
		kind := download.KindArtifactory
		if i < len(urls)-1 {
			kind = download.KindPeer
		}
		sources = append(sources, download.Source{Name: fmt.Sprint(i), Kind: kind, Fetcher: f})
	}
	pool, err := download.NewPool(download.PreferConductor, sources...)
	require.NoError(t, err)
	p := download.DefaultPolicy()
	p.MaxBandwidth = bits
	d, err := download.New(download.Config{
		Pool: pool, Trust: l.ver, StateDir: state, Policy: &p,
		Tuning: download.Tuning{Poll: 20 * time.Millisecond, Checkpoint: 30 * time.Millisecond},
	})
	require.NoError(t, err)
	return d
}

func get(t *testing.T, url, rangeHeader string) (*http.Response, []byte) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	if rangeHeader != "" {
		req.Header.Set("Range", rangeHeader)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, body
}

func TestServesARepository(t *testing.T) {
	l := newLab(t, 1<<20)
	require.NoError(t, os.WriteFile(filepath.Join(l.dir, "secret"), []byte("x"), 0o600))
	url := serve(t, l.dir, 0)
	image := url + "/" + l.m.Path()
	for _, tc := range []struct {
		header   string
		status   int
		from, to int
	}{
		{"", 200, 0, len(l.data)},
		{"bytes=0-9", 206, 0, 10},
		{"bytes=100-", 206, 100, len(l.data)},
		{"bytes=-7", 206, len(l.data) - 7, len(l.data)},
		{"bytes=5-99999999999", 206, 5, len(l.data)},
		{"bytes=9-5", 200, 0, len(l.data)},
		{"bytes=0-1,3-4", 200, 0, len(l.data)},
		{"lines=0-1", 200, 0, len(l.data)},
		{fmt.Sprintf("bytes=%d-", len(l.data)), 416, 0, 0},
		{"bytes=-0", 416, 0, 0},
	} {
		resp, body := get(t, image, tc.header)
		require.Equal(t, tc.status, resp.StatusCode, tc.header)
		if tc.status != 416 {
			require.True(t, string(l.data[tc.from:tc.to]) == string(body), tc.header)
			require.Equal(t, `"`+l.m.SHA256.String()+`"`, resp.Header.Get("ETag"))
		}
	}
	for _, path := range []string{"/secret", "/../secret", "/" + l.m.Path() + "x", "/%2e%2e/secret", "/SSR-7"} {
		resp, _ := get(t, url+path, "")
		require.Equal(t, http.StatusNotFound, resp.StatusCode, path)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, image, strings.NewReader("x"))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

// The second node takes from the first what is durable there, while the first
// still downloads, and the origin sends every byte once.
func TestServesADownloadThatRuns(t *testing.T) {
	l := newLab(t, 8<<20)
	origin := serve(t, l.dir, 0)
	dir := t.TempDir()
	peerURL := serve(t, dir, 0)
	done := make(chan error, 1)
	go func() {
		_, err := l.downloader(t, filepath.Join(t.TempDir(), "s1"), 16_000_000, origin).Download(t.Context(), download.Request{Version: version, Out: filepath.Join(dir, "image")})
		done <- err
	}()
	out := filepath.Join(t.TempDir(), "second")
	st, err := l.downloader(t, filepath.Join(t.TempDir(), "s2"), 0, peerURL, serve(t, t.TempDir(), 0)).
		Download(t.Context(), download.Request{Version: version, Out: out, Sequenced: download.RoleSecond})
	require.NoError(t, err)
	require.NoError(t, <-done)
	got, err := os.ReadFile(out)
	require.NoError(t, err)
	require.True(t, string(l.data) == string(got))
	require.Equal(t, int64(len(l.data)), st.Received, "the peer sent only what was verified")

	// Finished, it is served whole; a status file of a state directory leads to
	// it as well.
	for _, u := range []string{peerURL, serve(t, filepath.Join(filepath.Dir(out), "none"), 0)} {
		resp, body := get(t, u+"/"+repo.IndexPath, "")
		require.Equal(t, 200, resp.StatusCode)
		x, err := repo.ParseIndex(body)
		require.NoError(t, err)
		if u == peerURL {
			require.Len(t, x.Images, 1)
			require.True(t, x.Images[0].Complete())
		} else {
			require.Empty(t, x.Images)
		}
	}
}

func TestPartOfAnImage(t *testing.T) {
	l := newLab(t, 8<<20)
	origin := serve(t, l.dir, 0)
	dir := t.TempDir()
	state := filepath.Join(t.TempDir(), "state")
	ctx, stop := context.WithCancel(t.Context())
	d := l.downloader(t, state, 32_000_000, origin)
	done := make(chan error, 1)
	go func() {
		_, err := d.Download(ctx, download.Request{Version: version, Out: filepath.Join(dir, "image")})
		done <- err
	}()
	require.Eventually(t, func() bool {
		st, err := d.Store().Show(version)
		return err == nil && st.Durable >= 1<<20
	}, 30*time.Second, 10*time.Millisecond)
	stop()
	<-done
	for _, served := range []string{dir, state} {
		url := serve(t, served, 0)
		_, body := get(t, url+"/"+repo.IndexPath, "")
		x, err := repo.ParseIndex(body)
		require.NoError(t, err)
		require.Len(t, x.Images, 1)
		e := x.Images[0]
		require.Equal(t, repo.StateStopped, e.State)
		require.Positive(t, e.Have.Count())
		require.Less(t, e.Have.Count(), l.m.Count())
		end := int64(e.Have[0][1]) * l.m.Chunks.Size
		image := url + "/" + l.m.Path()
		resp, body := get(t, image, fmt.Sprintf("bytes=10-%d", len(l.data)-1))
		require.Equal(t, 206, resp.StatusCode)
		require.True(t, string(l.data[10:end]) == string(body), "it stops where the durable part ends")
		resp, _ = get(t, image, "")
		require.Equal(t, 416, resp.StatusCode, "a part is never sent as the whole")
		resp, _ = get(t, image, fmt.Sprintf("bytes=%d-", end))
		require.Equal(t, 416, resp.StatusCode)
	}
}

func TestLimitHolds(t *testing.T) {
	l := newLab(t, 1<<20)
	begin := time.Now()
	resp, body := get(t, serve(t, l.dir, 8<<20)+"/"+l.m.Path(), "")
	require.Equal(t, 200, resp.StatusCode)
	require.Len(t, body, len(l.data))
	require.Greater(t, time.Since(begin), 900*time.Millisecond)
}

func TestListenAsksForBBR(t *testing.T) {
	l, congestion, err := peer.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil || !strings.Contains(string(available), "bbr") {
		t.Skipf("this kernel has no BBR; sockets use %q", congestion)
	}
	require.Equal(t, "bbr", congestion)
}

func TestConfig(t *testing.T) {
	_, err := peer.New(peer.Config{})
	require.Error(t, err)
	_, err = peer.New(peer.Config{Dir: "x", MaxBandwidth: 1_000_000_000_000})
	require.ErrorContains(t, err, "1 to 999999999999")
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-9", "bytes=-5", "bytes=5-", "bytes=9-1", "bytes=1-2,3-4", "x"} {
		f.Add(s, int64(100))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 1 {
			return
		}
		from, to, ranged := peer.ParseRange(s, size)
		if from >= 0 {
			require.Less(t, from, to)
			require.LessOrEqual(t, to, size)
		}
		if !ranged {
			require.Equal(t, []int64{0, size}, []int64{from, to})
		}
	})
}
