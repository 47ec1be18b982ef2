package crl_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

// TestStopAtEveryStepOfPublishing stops between all writes of an update. The
// list before or the new one must be in force after that, and the update must
// succeed when it is tried again.
func TestStopAtEveryStepOfPublishing(t *testing.T) {
	type setup struct {
		w   *world
		two []byte
	}
	shared := newWorld(t)
	bad, worse := shared.ca.Leaf(t, "bad"), shared.ca.Leaf(t, "worse")
	first := shared.ca.Sign(t, crltest.List{Number: 1, Entries: []crltest.Entry{entry(bad, 1)}})
	second := shared.ca.Sign(t, crltest.List{Number: 2, Entries: []crltest.Entry{entry(bad, 1), entry(worse, 1)}})
	third := shared.ca.Sign(t, crltest.List{Number: 3})
	durabletest.EachStop(t, func(t *testing.T) *setup {
		w := &world{t: t, ca: shared.ca, now: crltest.Now, alarms: shared.alarms, cfg: shared.cfg}
		w.cfg.Alarms, w.cfg.Events, w.cfg.OnRevoked = nil, nil, nil
		w.cfg.Directory = filepath.Join(fastDir(t), "crl")
		w.start()
		require.NoError(t, w.m.Import(t.Context(), bytes.NewReader(first), "x"))
		return &setup{w: w, two: second}
	}, func(s *setup, d durable.Writer) error {
		s.w.m.SetDurable(d)
		return s.w.m.Import(t.Context(), bytes.NewReader(s.two), "x")
	}, func(t *testing.T, s *setup, done bool) {
		s.w.t = t
		s.w.start()
		require.Equal(t, crl.StatusRevoked, s.w.status(bad))
		if done {
			require.Equal(t, crl.StatusRevoked, s.w.status(worse))
		}
		require.NoError(t, s.w.m.Import(t.Context(), bytes.NewReader(second), "x"))
		require.Equal(t, crl.StatusRevoked, s.w.status(worse))
		require.ErrorIs(t, s.w.m.Import(t.Context(), bytes.NewReader(first), "x"), crl.ErrRollback)
		// What a crash left behind goes with the next list.
		require.NoError(t, s.w.m.Import(t.Context(), bytes.NewReader(third), "x"))
		lists, err := filepath.Glob(filepath.Join(s.w.cfg.Directory, "lists", "*"))
		require.NoError(t, err)
		require.Len(t, lists, 1)
	})
}

func TestUnchangedListCostsNoWrite(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.list(crltest.List{})
	require.NoError(t, w.fetch())
	var writes atomic.Int32
	w.start()
	w.m.SetDurable(durable.Writer{Before: func(durable.Step, string) error {
		writes.Add(1)
		return nil
	}})
	for range 3 {
		require.NoError(t, w.fetch())
	}
	require.Zero(t, writes.Load())
	require.Len(t, w.events, 4)
}

// TestBitFlips changes single bits of the master list. Each is noticed, said,
// and mended from the signed lists without the network.
func TestBitFlips(t *testing.T) {
	w := newWorld(t)
	w.start()
	bad, good := w.ca.Leaf(t, "bad"), w.ca.Leaf(t, "good")
	w.list(crltest.List{Entries: []crltest.Entry{entry(bad, 1)}})
	require.NoError(t, w.fetch())
	w.serve(nil)
	path := filepath.Join(w.cfg.Directory, "master.crl-index")
	sound := mustRead(t, path)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		broken := bytes.Clone(sound)
		broken[rng.IntN(len(broken))] ^= 1 << rng.IntN(8)
		writeFile(t, path, broken)
		w.history = nil
		w.start()
		require.Equal(t, crl.StatusRevoked, w.status(bad))
		require.Equal(t, crl.StatusGood, w.status(good))
		require.Contains(t, w.history[0].Text, "damaged")
		w.noAlarm()
	}
	for _, n := range []int{0, 10, 64, len(sound) - 1} {
		writeFile(t, path, sound[:n])
		w.start()
		require.Equal(t, crl.StatusRevoked, w.status(bad), "cut to %d bytes", n)
	}

	// Nothing left to mend from: unknown, never good.
	lists, err := filepath.Glob(filepath.Join(w.cfg.Directory, "lists", "*"))
	require.NoError(t, err)
	require.Len(t, lists, 1)
	data := mustRead(t, lists[0])
	data[len(data)-1] ^= 1
	writeFile(t, lists[0], data)
	writeFile(t, path, sound[:100])
	w.start()
	require.Equal(t, crl.StatusUnknown, w.status(good))
}

func TestDamagedSignedListIsReplacedWhenItComesAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	der := w.list(crltest.List{Entries: numbered(2000)})
	require.NoError(t, w.fetch())
	paths, err := filepath.Glob(filepath.Join(w.cfg.Directory, "lists", "*"))
	require.NoError(t, err)
	require.Len(t, paths, 1)
	broken := bytes.Clone(der)
	broken[len(broken)/2] ^= 1
	for _, content := range [][]byte{broken, der[:100], nil} {
		writeFile(t, paths[0], content)
		if content == nil {
			require.NoError(t, os.Remove(paths[0]))
		}
		require.NoError(t, w.fetch())
		require.True(t, bytes.Equal(der, mustRead(t, paths[0])))
	}
	w.noAlarm()
}

// TestAnotherProcessReadsWhileTheListIsReplaced has a second manager on the same
// directory, as another process would.
func TestAnotherProcessReadsWhileTheListIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.start()
	bad := w.ca.Leaf(t, "bad")
	w.list(crltest.List{Entries: []crltest.Entry{entry(bad, 1)}})
	require.NoError(t, w.fetch())
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		cfg := w.cfg
		cfg.Alarms, cfg.Events, cfg.OnRevoked = nil, nil, nil
		for {
			select {
			case <-stop:
				return
			default:
			}
			m, err := crl.New(cfg)
			if err == nil {
				err = m.Load(t.Context())
			}
			if err == nil {
				err = m.Check(bad, w.ca.Cert).Err(bad)
			}
			var revoked *crl.RevokedError
			if !asRevoked(err, &revoked) {
				failed <- err
				return
			}
		}
	}()
	for n := range 40 {
		w.list(crltest.List{Number: int64(n + 2), Entries: []crltest.Entry{entry(bad, 1), entry(w.ca.Cert, 1)}})
		require.NoError(t, w.fetch())
	}
	close(stop)
	require.NoError(t, <-failed)
}

// TestMapsOutliveTheirUse collects garbage all the time while lists are
// compared, so that a map that goes too early is noticed.
func TestMapsOutliveTheirUse(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	const n = 150_000
	for number := range 4 {
		var list bytes.Buffer
		w.ca.Stream(t, &list, int64(number+1), func(yield func(int) bool) {
			for i := number * 10; i < n+number*10 && yield(i); i++ {
			}
		}, n)
		require.NoError(t, w.m.Import(t.Context(), &list, "x"))
	}
	close(stop)
	<-stopped
	require.Equal(t, n, w.m.Lists()[0].Entries)
}
