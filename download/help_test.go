package download_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

// fixture is a repository with one image.
type fixture struct {
	dir      string
	key      ed25519.PrivateKey
	trust    *repo.Verifier
	image    []byte
	manifest *repo.Manifest
}

const version = "SSR-7.1.0"

// imageBytes are random enough to have no two equal chunks, and cheap.
func imageBytes(size int, seed uint64) []byte {
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	b := make([]byte, size)
	_, _ = c.Read(b)
	return b
}

func newFixture(t testing.TB, size int) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), image: imageBytes(size, 1)}
	f.prepare(t)
	f.manifest = f.make(t, f.dir, f.image, repo.MakeConfig{})
	return f
}

// prepare sets the keys.
func (f *fixture) prepare(t require.TestingT) {
	f.key = ed25519.NewKeyFromSeed(make([]byte, 32))
	var err error
	f.trust, err = repo.NewVerifier(f.key.Public())
	require.NoError(t, err)
}

// failer stands for a test where there is none: in the child process.
type failer struct{}

func (failer) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (failer) FailNow()                          { panic("failed") }

// make signs an image into a repository.
func (f *fixture) make(t testing.TB, dir string, image []byte, cfg repo.MakeConfig) *repo.Manifest {
	t.Helper()
	name := filepath.Join(t.TempDir(), version+".iso")
	require.NoError(t, os.WriteFile(name, image, 0o600))
	cfg.Dir, cfg.Key = dir, f.key
	made, err := repo.Make(t.Context(), cfg, name)
	require.NoError(t, err)
	return made[0]
}

// serve serves the repository, through wrap when it is not nil.
func (f *fixture) serve(t testing.TB, wrap func(http.Handler) http.Handler) *httptest.Server {
	var h http.Handler = http.FileServer(http.Dir(f.dir))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func httpSource(t require.TestingT, kind download.Kind, url string) download.Source {
	h, err := source.NewHTTP(source.HTTPConfig{URL: url, Dial: dialWith(smallBuffer)})
	require.NoError(t, err)
	return download.Source{Name: string(kind), Kind: kind, Fetcher: h}
}

// Small socket buffers keep sockets from holding much of an image, so that what a
// server sent is what a client got, on a machine of any load.
const smallBuffer = 32 << 10

func dialWith(buffer int) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if tcp, ok := c.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(buffer)
		}
		return c, err
	}
}

// serveSmall serves with small buffers.
func serveSmall(t testing.TB, h http.Handler, buffer int) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetWriteBuffer(buffer)
		}
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// labPolicy is quick enough for tests that cannot simulate time.
func labPolicy() *download.Policy {
	p := download.DefaultPolicy()
	p.Timeout, p.MaxRetryDelay = 60*time.Second, 50*time.Millisecond
	return &p
}

func (f *fixture) config(t require.TestingT, sources ...download.Source) download.Config {
	pool, err := download.NewPool(download.PreferConductor, sources...)
	require.NoError(t, err)
	return download.Config{
		Pool: pool, Trust: f.trust, StateDir: stateDir(t), Policy: labPolicy(), Lab: true,
		Tuning: download.Tuning{Poll: 20 * time.Millisecond, StallTimeout: 3 * time.Second},
	}
}

func stateDir(t require.TestingT) string {
	if t, ok := t.(testing.TB); ok {
		return filepath.Join(t.TempDir(), "state")
	}
	return "set by the caller"
}

func newDownloader(t testing.TB, cfg download.Config) *download.Downloader {
	d, err := download.New(cfg)
	require.NoError(t, err)
	return d
}

func (f *fixture) requireImage(t testing.TB, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, got, len(f.image))
	require.True(t, string(got) == string(f.image), "the image is byte-exact")
	require.NoFileExists(t, path+".part")
	require.NoFileExists(t, path+".part.journal")
	require.NoFileExists(t, path+".part.hint")
}

func newStranger(t testing.TB) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed([]byte("another key, of another signer..")).Public().(ed25519.PublicKey)
}
