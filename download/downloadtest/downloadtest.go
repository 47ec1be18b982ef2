package downloadtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

// Fetcher checks that f keeps the contract of [download.Fetcher]. f must offer
// the image of m completely; image is its content, of at least two chunks.
func Fetcher(t *testing.T, f download.Fetcher, m *repo.Manifest, image []byte) {
	t.Helper()
	if int64(len(image)) != m.Size || m.Count() < 2 {
		t.Fatalf("the kit needs an image of two chunks or more and its whole content")
	}
	t.Run("index offers the image", func(t *testing.T) {
		x, err := f.Index(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range x.Images {
			if got, err := repo.Peek(e.Envelope); err == nil && got.Identity() == m.Identity() && e.Complete() {
				return
			}
		}
		t.Fatal("no complete entry has the image's identity")
	})
	t.Run("chunk list is the signed one", func(t *testing.T) {
		list, err := f.ChunkList(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ParseChunkList(list); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("ranges", func(t *testing.T) {
		for _, r := range [][2]int64{{0, 1}, {0, m.Chunks.Size}, {1, m.Chunks.Size}, {m.Chunks.Size - 1, 2}, {m.Size - 1, 1}, {0, m.Size}} {
			read(t, f, m, image, r[0], r[1])
		}
	})
	t.Run("side by side", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { read(t, f, m, image, int64(i), m.Size/2) })
		}
		wg.Wait()
	})
	t.Run("an unknown image is an error", func(t *testing.T) {
		other := *m
		other.Version += "-unknown"
		body, err := f.Open(t.Context(), &other, 0, 1)
		if err == nil {
			_ = body.Close()
			t.Fatal("it opened an image that it does not have")
		}
		var se *download.SourceError
		if !errors.As(err, &se) || se.Fault != download.FaultNotFound {
			t.Errorf("want a SourceError with the fault %q, not %v", download.FaultNotFound, err)
		}
	})
	t.Run("an ended context ends it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		body, err := f.Open(ctx, m, 0, m.Size)
		if err != nil {
			return
		}
		// A source that needs no waiting may answer all the same, and is closed.
		if err := body.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// read opens a range and compares it, as the contract lets it begin.
func read(t *testing.T, f download.Fetcher, m *repo.Manifest, image []byte, off, n int64) {
	t.Helper()
	body, err := f.Open(t.Context(), m, off, n)
	if err != nil {
		t.Errorf("open %d+%d: %v", off, n, err)
		return
	}
	defer body.Close()
	switch {
	case body.Offset < 0 || body.Offset > off:
		t.Errorf("open %d+%d begins at %d", off, n, body.Offset)
		return
	case body.Whole && body.Offset != 0:
		t.Errorf("a whole image begins at %d", body.Offset)
		return
	}
	got := make([]byte, off+n-body.Offset)
	if _, err := io.ReadFull(body, got); err != nil {
		t.Errorf("read %d+%d: %v", off, n, err)
		return
	}
	if !bytes.Equal(got, image[body.Offset:off+n]) {
		t.Errorf("read %d+%d: other bytes", off, n)
	}
}
