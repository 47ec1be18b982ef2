package partial_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

// reopen opens and closes an image a few times without fetching, and requires
// that it never has more than keep chunks, nor offers more to a peer.
func (i image) reopen(t *testing.T, path string, keep int) {
	t.Helper()
	for range 3 {
		im, err := i.open(t, path, durable.Writer{})
		require.NoError(t, err)
		require.EqualValues(t, keep*chunk, im.Progress().Verified)
		require.False(t, im.Complete())
		require.LessOrEqual(t, i.offered(t, path), keep)
		require.NoError(t, im.Close())
	}
}

// offered returns how many chunks a peer would be offered.
func (i image) offered(t *testing.T, path string) int {
	t.Helper()
	h, err := partial.ReadHeld(path, partial.Identified{Manifest: i.m, List: i.list})
	require.NoError(t, err)
	return h.Have.Count()
}

// get fetches what is missing until the image has its name.
func (i image) get(t *testing.T, path string) {
	t.Helper()
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	fill(im, i.data)
	require.NoError(t, im.Finish(t.Context()))
	i.requireNamed(t, path)
}

func (i image) requireNamed(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(i.data, got))
}

// begin fetches chunks and makes them durable.
func (i image) begin(t *testing.T, path string, chunks int) {
	t.Helper()
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	feed(im, im.Take(all, chunks), i.data, 1<<40)
	require.NoError(t, im.Checkpoint())
	require.NoError(t, im.Close())
}

func TestAJournalWithoutItsFileClaimsNothing(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	i.begin(t, path, 8)
	require.NoError(t, os.Remove(path+".part"))
	i.reopen(t, path, 0)
	i.get(t, path)
}

func TestStoppedBetweenNameAndJournalThenMovedAway(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	i.begin(t, path, 8)
	// What a stop right after the rename leaves; the image is used elsewhere.
	require.NoError(t, os.Rename(path+".part", path+".elsewhere"))
	require.FileExists(t, path+".part.journal")
	i.reopen(t, path, 0)
	i.get(t, path)
}

func TestAFileThatLostItsEnd(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	i.begin(t, path, 8)
	require.NoError(t, os.Truncate(path+".part", 3*chunk+5))
	require.Equal(t, 3, i.offered(t, path), "a peer is offered what is there, before anybody repairs")
	i.reopen(t, path, 3)
	i.get(t, path)
}

func TestAnotherImageInBetween(t *testing.T) {
	a, b := newImage(t, 12, 1), newImage(t, 8, 2)
	for name, chunks := range map[string]int{"b brings nothing": 0, "b brings chunks": 3} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			a.begin(t, path, 12)
			im, err := b.open(t, path, durable.Writer{})
			require.NoError(t, err)
			if chunks > 0 {
				// No checkpoint follows: the journal is the one of Open.
				feed(im, im.Take(all, chunks), b.data, 1<<40)
			}
			require.NoError(t, im.Close())
			// Of a, the chunks stand that b did not write over or cut off.
			a.reopen(t, path, max(8-1-chunks, 0))
			a.get(t, path)
		})
	}
}

// The claims must be gone from the disk before the file grows, wherever a stop
// falls.
func TestStoppedWhileAStaleJournalIsReplaced(t *testing.T) {
	i := newImage(t, 8, 1)
	durabletest.EachStop(t,
		func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "out")
			i.begin(t, path, 8)
			require.NoError(t, os.Remove(path+".part"))
			return path
		},
		func(path string, w durable.Writer) error {
			im, err := i.open(t, path, w)
			if err != nil {
				return err
			}
			return im.Close()
		},
		func(t *testing.T, path string, _ bool) {
			i.reopen(t, path, 0)
			i.get(t, path)
		})
}

// A journal is not a digest: what changed behind it does not get the name.
func TestBytesThatChangedBehindTheJournal(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	i.begin(t, path, 8)
	data, err := os.ReadFile(path + ".part")
	require.NoError(t, err)
	clear(data[2*chunk : 3*chunk])
	data[len(data)-1] ^= 1
	require.NoError(t, os.WriteFile(path+".part", data, 0o600))

	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	require.True(t, im.Complete())
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, im.Finish(canceled), context.Canceled)
	require.ErrorIs(t, im.Finish(t.Context()), partial.ErrDamaged)
	require.NoFileExists(t, path)
	require.False(t, im.Complete())
	require.Equal(t, 6, i.offered(t, path))
	require.NoError(t, im.Close())
	require.EqualValues(t, 8-2, i.offered(t, path))

	im, err = i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	seg := im.Take(all, 8)
	from, to := seg.Range()
	require.Equal(t, []int64{2 * chunk, 3 * chunk}, []int64{from, to}, "only what is bad is fetched again")
	feed(im, seg, i.data, 1<<40)
	fill(im, i.data)
	require.NoError(t, im.Finish(t.Context()))
	i.requireNamed(t, path)
}
