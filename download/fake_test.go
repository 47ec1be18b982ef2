package download_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

// fake is a source without a network, for simulated time.
type fake struct {
	f     *fixture
	index *repo.Index
	list  []byte
	rate  int64 // bytes per second and connection; 0 is at once

	mu    sync.Mutex
	dead  error // answer to everything
	opens []time.Time
	sent  int64
	asked int
	open  func(ctx context.Context, off, n int64) (*download.Body, error) // instead
}

func newFake(t testing.TB, f *fixture) *fake {
	k := &fake{f: f}
	k.take(t, f.dir, f.manifest)
	return k
}

// take offers what is in a repository.
func (k *fake) take(t testing.TB, dir string, m *repo.Manifest) {
	data, err := os.ReadFile(filepath.Join(dir, repo.IndexPath))
	require.NoError(t, err)
	k.index, err = repo.ParseIndex(data)
	require.NoError(t, err)
	k.list, err = os.ReadFile(filepath.Join(dir, m.ChunkListPath()))
	require.NoError(t, err)
}

func (k *fake) source(kind download.Kind) download.Source {
	return download.Source{Name: string(kind), Kind: kind, Fetcher: k}
}

// bytesSent returns how much it has sent.
func (k *fake) bytesSent() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent
}

func (k *fake) setDead(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dead = err
}

func (k *fake) Index(context.Context) (*repo.Index, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.dead != nil {
		return nil, k.dead
	}
	return &repo.Index{Images: append([]repo.Entry(nil), k.index.Images...)}, nil
}

func (k *fake) ChunkList(context.Context, *repo.Manifest) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.list), k.dead
}

func (k *fake) Open(ctx context.Context, _ *repo.Manifest, off, n int64) (*download.Body, error) {
	k.mu.Lock()
	k.opens = append(k.opens, time.Now())
	dead, open := k.dead, k.open
	k.mu.Unlock()
	if open != nil {
		return open(ctx, off, n)
	}
	if dead != nil {
		return nil, dead
	}
	return &download.Body{ReadCloser: io.NopCloser(&fakeBody{k: k, ctx: ctx, data: k.f.image[off : off+n]}), Offset: off}, nil
}

var errDead = errors.New("connection refused")

// fakeBody sends in steps, as fast as its source is, and breaks when the source
// dies.
type fakeBody struct {
	k    *fake
	ctx  context.Context
	data []byte
}

func (b *fakeBody) Read(p []byte) (int, error) {
	b.k.mu.Lock()
	dead, rate := b.k.dead, b.k.rate
	b.k.mu.Unlock()
	if dead != nil {
		return 0, dead
	}
	if len(b.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(b.data), 64<<10)
	if rate > 0 {
		n = min(n, int(max(rate/10, 1)))
		t := time.NewTimer(time.Duration(n) * time.Second / time.Duration(rate))
		defer t.Stop()
		select {
		case <-t.C:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	copy(p, b.data[:n])
	b.data = b.data[n:]
	b.k.mu.Lock()
	b.k.sent += int64(n)
	b.k.mu.Unlock()
	return n, nil
}
