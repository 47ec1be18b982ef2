package partial_test

import (
	"bytes"
	"crypto/ed25519"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

type image struct {
	data []byte
	m    *repo.Manifest
	list []byte
}

const chunk = 4096

func newImage(t testing.TB, chunks int, seed byte) image {
	data := make([]byte, chunks*chunk-100)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	dir := t.TempDir()
	name := filepath.Join(dir, "v.img")
	require.NoError(t, os.WriteFile(name, data, 0o600))
	made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: filepath.Join(dir, "r"), Key: ed25519.NewKeyFromSeed(make([]byte, 32)), ChunkSize: chunk}, name)
	require.NoError(t, err)
	list, err := os.ReadFile(filepath.Join(dir, "r", made[0].ChunkListPath()))
	require.NoError(t, err)
	return image{data, made[0], list}
}

func (i image) open(t testing.TB, path string, w durable.Writer) (*partial.Image, error) {
	return partial.Open(partial.Config{Path: path, Manifest: i.m, List: i.list, Writer: w})
}

func all(int) bool { return true }

// feed puts the bytes of data that the segment wants, at most limit of them.
func feed(im *partial.Image, seg *partial.Segment, data []byte, limit int64) (results []partial.Result) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for limit > 0 {
		sink := seg.Next("src", &wg, func(r partial.Result) {
			mu.Lock()
			defer mu.Unlock()
			results = append(results, r)
		})
		if sink == nil {
			break
		}
		for sink.Left() > 0 && limit > 0 {
			b := im.Buffer()
			n := copy(b, data[sink.Offset():sink.Offset()+min(sink.Left(), limit, 1000)])
			limit -= int64(n)
			sink.Put(b[:n])
		}
		sink.Close()
	}
	seg.Release()
	wg.Wait()
	return results
}

func fill(im *partial.Image, data []byte) {
	for {
		seg := im.Take(all, 3)
		if seg == nil {
			return
		}
		feed(im, seg, data, 1<<40)
	}
}

func TestFillAndFinish(t *testing.T) {
	i := newImage(t, 20, 1)
	path := filepath.Join(t.TempDir(), "out")
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	_, err = i.open(t, path, durable.Writer{})
	require.ErrorIs(t, err, partial.ErrLocked)
	require.Error(t, im.Finish(t.Context()), "an image that is not complete gets no name")
	fill(im, i.data)
	require.True(t, im.Complete())
	require.NoError(t, im.Finish(t.Context()))
	require.NoError(t, im.Close())
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(i.data, got))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the image and its passport")

	im, err = i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	require.True(t, im.Complete(), "a finished image is found again")
	require.NoError(t, im.Finish(t.Context()))
	require.NoError(t, im.Close())
}

func TestBadChunkIsFetchedAgainAlone(t *testing.T) {
	i := newImage(t, 8, 1)
	im, err := i.open(t, filepath.Join(t.TempDir(), "out"), durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	bad := bytes.Clone(i.data)
	bad[3*chunk+7] ^= 1
	var blamed []partial.Result
	for _, r := range feed(im, im.Take(all, 8), bad, 1<<40) {
		if r.Bad {
			blamed = append(blamed, r)
		}
	}
	require.Len(t, blamed, 1)
	require.Equal(t, 3, blamed[0].Chunk)
	require.Equal(t, "src", blamed[0].Blame)
	seg := im.Take(all, 8)
	from, to := seg.Range()
	require.Equal(t, []int64{3 * chunk, 4 * chunk}, []int64{from, to})
	feed(im, seg, i.data, 1<<40)
	require.True(t, im.Complete())
}

func TestAChunkGoesOnAtItsByte(t *testing.T) {
	i := newImage(t, 4, 1)
	path := filepath.Join(t.TempDir(), "out")
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	feed(im, im.Take(all, 4), i.data, chunk+1234)
	seg := im.Take(all, 4)
	from, _ := seg.Range()
	require.EqualValues(t, chunk+1234, from)
	seg.Release()
	// The process dies without a checkpoint: the page cache still has the bytes.
	require.NoError(t, im.Close())
	im, err = i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	require.EqualValues(t, chunk, im.Progress().Verified)
	require.Equal(t, 2, im.Progress().Rechecked, "only what was not synced is hashed again")
	seg = im.Take(all, 4)
	from, _ = seg.Range()
	require.EqualValues(t, chunk+1234, from)
	feed(im, seg, i.data, 1<<40)
	fill(im, i.data)
	require.NoError(t, im.Finish(t.Context()))
}

func TestWhatAPowerCutLeaves(t *testing.T) {
	i := newImage(t, 16, 1)
	other := newImage(t, 16, 2)
	for name, damage := range map[string]struct {
		do   func(t *testing.T, path string)
		keep int // chunks that must not be fetched again
	}{
		"nothing is lost": {func(*testing.T, string) {}, 8},
		"journal is gone": {func(t *testing.T, p string) { require.NoError(t, os.Remove(p+".part.journal")) }, 8},
		"journal is damaged": {func(t *testing.T, p string) {
			data, err := os.ReadFile(p + ".part.journal")
			require.NoError(t, err)
			data[len(data)-5] ^= 1
			require.NoError(t, os.WriteFile(p+".part.journal", data, 0o600))
		}, 8},
		"journal is empty": {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p+".part.journal", 0)) }, 8},
		"hints are gone":   {func(t *testing.T, p string) { require.NoError(t, os.Remove(p+".part.hint")) }, 8},
		"hints are wrong": {func(t *testing.T, p string) {
			require.NoError(t, os.WriteFile(p+".part.hint", bytes.Repeat([]byte{0, 0, 15, 255}, 16), 0o600))
		}, 8},
		"file is shorter than its journal": {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p+".part", 5*chunk+1)) }, 5},
		"file is longer":                   {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p+".part", 100*chunk)) }, 8},
		"file is gone":                     {func(t *testing.T, p string) { require.NoError(t, os.Remove(p+".part")) }, 0},
		"passport is of another image": {func(t *testing.T, p string) {
			q := filepath.Join(t.TempDir(), "q")
			im, err := other.open(t, q, durable.Writer{})
			require.NoError(t, err)
			require.NoError(t, im.Close())
			require.NoError(t, os.Rename(q+".mooring", p+".mooring"))
		}, 8},
		"journal is of another image": {func(t *testing.T, p string) {
			q := filepath.Join(t.TempDir(), "q")
			im, err := other.open(t, q, durable.Writer{})
			require.NoError(t, err)
			fill(im, other.data)
			require.NoError(t, im.Checkpoint())
			require.NoError(t, im.Close())
			require.NoError(t, os.Rename(q+".part.journal", p+".part.journal"))
		}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			im, err := i.open(t, path, durable.Writer{})
			require.NoError(t, err)
			feed(im, im.Take(all, 8), i.data, 1<<40)
			require.NoError(t, im.Checkpoint())
			require.NoError(t, im.Close())
			damage.do(t, path)
			im, err = i.open(t, path, durable.Writer{})
			require.NoError(t, err)
			require.EqualValues(t, damage.keep*chunk, im.Progress().Verified)
			// Restarts before the first chunk is fetched must not make more of it.
			for range 2 {
				require.NoError(t, im.Close())
				im, err = i.open(t, path, durable.Writer{})
				require.NoError(t, err)
				require.EqualValues(t, damage.keep*chunk, im.Progress().Verified)
			}
			defer im.Close()
			fill(im, i.data)
			// A wrong hint makes one chunk bad once; it is then fetched whole.
			fill(im, i.data)
			require.NoError(t, im.Finish(t.Context()))
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(i.data, got))
		})
	}
}

func TestChunksThatDidNotChangeAreKept(t *testing.T) {
	i := newImage(t, 16, 1)
	path := filepath.Join(t.TempDir(), "out")
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	feed(im, im.Take(all, 10), i.data, 1<<40)
	require.NoError(t, im.Close())

	respun := i
	respun.data = bytes.Clone(i.data)
	respun.data[5*chunk] ^= 1
	name := filepath.Join(t.TempDir(), "v.img")
	require.NoError(t, os.WriteFile(name, respun.data, 0o600))
	dir := t.TempDir()
	made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: ed25519.NewKeyFromSeed(make([]byte, 32)), ChunkSize: chunk}, name)
	require.NoError(t, err)
	respun.m = made[0]
	respun.list, err = os.ReadFile(filepath.Join(dir, respun.m.ChunkListPath()))
	require.NoError(t, err)
	im, err = respun.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	require.EqualValues(t, 9*chunk, im.Progress().Verified)
}

func TestJournalNeverClaimsWhatIsNotSynced(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	durableNow := func() int {
		data, err := os.ReadFile(path + ".part.journal")
		require.NoError(t, err)
		j, err := partial.ParseJournal(data)
		require.NoError(t, err)
		n := 0
		for _, c := range j.Chunks {
			if c {
				n++
			}
		}
		return n
	}
	feed(im, im.Take(all, 5), i.data, 1<<40)
	require.Zero(t, durableNow())
	require.Zero(t, im.Progress().Durable)
	require.NoError(t, im.Checkpoint())
	require.Equal(t, 5, durableNow())
	require.EqualValues(t, 5*chunk, im.Progress().Durable)
}

func TestStoppedAtEachDurableStep(t *testing.T) {
	i := newImage(t, 6, 1)
	durabletest.EachStop(t,
		func(t *testing.T) string { return filepath.Join(t.TempDir(), "out") },
		func(path string, w durable.Writer) error {
			im, err := i.open(t, path, w)
			if err != nil {
				return err
			}
			defer im.Close()
			feed(im, im.Take(all, 3), i.data, 1<<40)
			if err := im.Checkpoint(); err != nil {
				return err
			}
			fill(im, i.data)
			return im.Finish(t.Context())
		},
		func(t *testing.T, path string, done bool) {
			if got, err := os.ReadFile(path); err == nil {
				require.True(t, bytes.Equal(i.data, got), "nothing unverified has the final name")
			} else {
				require.False(t, done)
			}
			im, err := i.open(t, path, durable.Writer{})
			require.NoError(t, err)
			defer im.Close()
			fill(im, i.data)
			require.NoError(t, im.Finish(t.Context()))
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(i.data, got))
			require.NoFileExists(t, path+".part")
			require.NoFileExists(t, path+".part.journal")
			require.NoFileExists(t, path+".part.hint")
		})
}

func TestSteal(t *testing.T) {
	i := newImage(t, 16, 1)
	im, err := i.open(t, filepath.Join(t.TempDir(), "out"), durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	a := im.Take(all, 16)
	require.Nil(t, im.Take(all, 16))
	b := im.Steal(a)
	require.NotNil(t, b)
	c := im.Steal(b)
	require.NotNil(t, c)
	for _, s := range []*partial.Segment{c, a, b} {
		feed(im, s, i.data, 1<<40)
	}
	require.True(t, im.Complete())
	// A segment of one chunk keeps it.
	i = newImage(t, 1, 3)
	im, err = i.open(t, filepath.Join(t.TempDir(), "out"), durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	require.Nil(t, im.Steal(im.Take(all, 1)))
}

func TestHeld(t *testing.T) {
	i := newImage(t, 8, 1)
	path := filepath.Join(t.TempDir(), "out")
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	held := func() *partial.Held {
		id, err := partial.Identify(path)
		require.NoError(t, err)
		h, err := partial.ReadHeld(path, id)
		require.NoError(t, err)
		return h
	}
	feed(im, im.Take(all, 5), i.data, 1<<40)
	require.Equal(t, repo.StateDownloading, held().State)
	require.Zero(t, held().Have.Count(), "what is not durable is not shown")
	require.NoError(t, im.Checkpoint())
	require.Equal(t, repo.Ranges{{0, 5}}, held().Have)
	require.NoError(t, im.Close())
	require.Equal(t, repo.StateStopped, held().State, "the lock went with its owner")
	im, err = i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	fill(im, i.data)
	require.NoError(t, im.Finish(t.Context()))
	require.NoError(t, im.Close())
	require.Equal(t, repo.StateComplete, held().State)
	require.Equal(t, path, held().File)
}

func FuzzJournal(f *testing.F) {
	i := newImage(f, 9, 1)
	path := filepath.Join(f.TempDir(), "out")
	im, err := i.open(f, path, durable.Writer{})
	require.NoError(f, err)
	feed(im, im.Take(all, 5), i.data, 1<<40)
	require.NoError(f, im.Checkpoint())
	require.NoError(f, im.Close())
	for _, name := range []string{".part.journal", ".mooring"} {
		data, err := os.ReadFile(path + name)
		require.NoError(f, err)
		f.Add(data)
		for n := range data {
			if _, err := partial.ParseJournal(data[:n]); err == nil {
				f.Fatalf("a journal cut to %d bytes was taken", n)
			}
			if _, err := partial.ParsePassport(data[:n]); err == nil {
				f.Fatalf("a passport cut to %d bytes was taken", n)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if j, err := partial.ParseJournal(data); err == nil {
			require.Equal(t, data, partial.EncodeJournal(j), "one form only")
		}
		if p, err := partial.ParsePassport(data); err == nil {
			require.Equal(t, data, partial.EncodePassport(p))
		}
	})
}
