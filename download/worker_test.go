package download

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
)

// A disk that is slower than the source keeps all buffers for longer than a
// source may be silent: that is booked to nobody.
func TestASlowDiskIsNotAStalledSource(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("image"), 20_000)
	name := filepath.Join(dir, "v.img")
	require.NoError(t, os.WriteFile(name, data, 0o600))
	made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: filepath.Join(dir, "r"), Key: ed25519.NewKeyFromSeed(make([]byte, 32))}, name)
	require.NoError(t, err)
	list, err := os.ReadFile(filepath.Join(dir, "r", made[0].ChunkListPath()))
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		im, err := partial.Open(partial.Config{Path: filepath.Join(dir, "out"), Manifest: made[0], List: list, Buffers: 1})
		require.NoError(t, err)
		defer im.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		const patience = 5 * time.Second
		watch := time.AfterFunc(patience, func() { cancel(errStalled) })
		defer watch.Stop()
		w := &worker{r: &round{im: im, j: &job{}}, l: &link{}}
		in := &intake{w: w, body: bytes.NewReader(data), watch: watch, patience: patience}

		held := im.Buffer() // the disk has it
		time.AfterFunc(10*patience, func() { im.Drop(held) })
		var sinks sync.WaitGroup
		sink := im.Take(func(int) bool { return true }, 1).Next("s", &sinks, func(partial.Result) {})
		require.NoError(t, in.fill(ctx, sink))
		sink.Close()
		sinks.Wait()
		require.NoError(t, context.Cause(ctx))

		// Afterwards it counts again.
		time.Sleep(patience + time.Second)
		require.ErrorIs(t, context.Cause(ctx), errStalled)
	})
}
