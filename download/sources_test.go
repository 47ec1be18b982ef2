package download_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

func TestSequencedPair(t *testing.T) {
	simulate(t, 8<<20, func(t *testing.T, f *fixture) {
		remote, peer := newFake(t, f), newFake(t, f)
		grow := func(state repo.State, chunks int) {
			peer.mu.Lock()
			defer peer.mu.Unlock()
			peer.index.Images[0].State = state
			peer.index.Images[0].Have = nil
			if chunks > 0 {
				peer.index.Images[0].Have = repo.Ranges{{0, chunks}}
			}
		}
		grow(repo.StateDownloading, 0)
		cfg := f.product(t, peer.source(download.KindPeer), remote.source(download.KindArtifactory))
		out := filepath.Join(t.TempDir(), "second")
		done := make(chan error, 1)
		go func() {
			_, err := newDownloader(t, cfg).Download(t.Context(), download.Request{Version: version, Out: out, Sequenced: download.RoleSecond})
			done <- err
		}()
		for i := range f.manifest.Count() {
			time.Sleep(20 * time.Second)
			grow(repo.StateDownloading, i)
		}
		grow(repo.StateComplete, 0)
		require.NoError(t, <-done)
		f.requireImage(t, out)
		require.Zero(t, remote.asked, "the second node asks nobody but its peer")

		// The first node dies half way: the second takes what is there, and goes
		// on with the others.
		peer.sent = 0
		grow(repo.StateDownloading, 10)
		cfg.StateDir = stateDir(t)
		out = filepath.Join(t.TempDir(), "second")
		begin := time.Now()
		go func() {
			_, err := newDownloader(t, cfg).Download(t.Context(), download.Request{Version: version, Out: out, Sequenced: download.RoleSecond})
			done <- err
		}()
		time.Sleep(10 * time.Second)
		peer.setDead(errDead)
		require.NoError(t, <-done)
		f.requireImage(t, out)
		require.Less(t, time.Since(begin), 60*time.Second)
		require.Equal(t, 10*f.manifest.Chunks.Size, peer.sent)
		require.Equal(t, int64(len(f.image))-peer.sent, remote.sent)
	})
}

func TestSequencedSecondDoesNotWaitForEver(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		remote, peer := newFake(t, f), newFake(t, f)
		cfg := f.product(t, peer.source(download.KindPeer), remote.source(download.KindArtifactory))
		for name, prepare := range map[string]func(){
			"peer has not begun": func() { peer.index = &repo.Index{} },
			"peer is dead":       func() { peer.setDead(errDead) },
			"peer stands still": func() {
				peer.setDead(nil)
				peer.take(t, f.dir, f.manifest)
				peer.index.Images[0].State = repo.StateDownloading
			},
			"peer has stopped half way": func() {
				peer.setDead(nil)
				peer.take(t, f.dir, f.manifest)
				peer.index.Images[0].State = repo.StateStopped
			},
		} {
			prepare()
			cfg.StateDir = stateDir(t)
			out := filepath.Join(t.TempDir(), "i")
			begin := time.Now()
			_, err := newDownloader(t, cfg).Download(t.Context(), download.Request{Version: version, Out: out, Sequenced: download.RoleSecond})
			require.NoError(t, err, name)
			f.requireImage(t, out)
			require.Less(t, time.Since(begin), 100*time.Second, name)
		}
	})
}

func TestAccessModes(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		kinds := []download.Kind{download.KindMistProxy, download.KindArtifactory, download.KindConductor2, download.KindConductor1, download.KindPeer}
		for mode, want := range map[download.AccessMode][]download.Kind{
			download.InternetOnly:    {download.KindPeer, download.KindArtifactory, download.KindMistProxy},
			download.PreferConductor: {download.KindPeer, download.KindConductor1, download.KindConductor2, download.KindArtifactory, download.KindMistProxy},
			download.ConductorOnly:   {download.KindPeer, download.KindConductor1, download.KindConductor2},
			download.OfflineMode:     {download.KindPeer, download.KindConductor1, download.KindConductor2},
		} {
			fakes := map[download.Kind]*fake{}
			var sources []download.Source
			for _, kind := range kinds {
				fakes[kind] = newFake(t, f)
				sources = append(sources, fakes[kind].source(kind))
			}
			cfg := f.product(t)
			var err error
			cfg.Pool, err = download.NewPool(mode, sources...)
			require.NoError(t, err)
			got, err := cfg.Pool.Sources(t.Context())
			require.NoError(t, err)
			var order []download.Kind
			for _, s := range got {
				order = append(order, s.Kind)
			}
			require.Equal(t, want, order)
			list, problems, err := newDownloader(t, cfg).Versions(t.Context())
			require.NoError(t, err)
			require.Empty(t, problems)
			require.Len(t, list[0].Sources, len(want))
			for kind, k := range fakes {
				require.Equal(t, k.asked > 0, contains(want, kind), "%s in %s", kind, mode)
			}
		}
	})
}

func contains(kinds []download.Kind, k download.Kind) bool {
	for _, have := range kinds {
		if have == k {
			return true
		}
	}
	return false
}

func TestManifestExpiryDoesNotTouchWhatIsThere(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		out := filepath.Join(t.TempDir(), "i")
		require.NoError(t, os.WriteFile(out, []byte("precious"), 0o600))
		time.Sleep(2 * 366 * 24 * time.Hour)
		_, err := get(t, f.product(t, k.source(download.KindArtifactory)), out)
		require.ErrorIs(t, err, repo.ErrExpired)
		data, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, "precious", string(data))
	})
}

func TestSeveralSourcesShareByTheirSpeed(t *testing.T) {
	simulate(t, 12<<20, func(t *testing.T, f *fixture) {
		slow, fast := newFake(t, f), newFake(t, f)
		slow.rate, fast.rate = 100<<10, 400<<10
		cfg := f.product(t, slow.source(download.KindConductor1), fast.source(download.KindConductor2))
		cfg.Tuning.MaxSources, cfg.Tuning.MaxConnections = 2, 4
		most := 0
		cfg.Progress = func(st download.Status) { most = max(most, st.Connections) }
		begin := time.Now()
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, cfg, out)
		require.NoError(t, err)
		f.requireImage(t, out)
		require.Equal(t, int64(len(f.image)), st.Received)
		require.Equal(t, 4, most, "the bound is for the download, not for a source")
		share := float64(fast.sent) / float64(slow.sent)
		require.InDelta(t, 4, share, 1, "chunks follow the measured speed")
		ideal := float64(len(f.image)) / (2 * 500 << 10)
		require.Less(t, time.Since(begin).Seconds(), ideal*1.15)

		// By default one source is used at a time, and the second stays unasked.
		slow.sent, fast.sent = 0, 0
		cfg.Tuning.MaxSources, cfg.StateDir = 0, stateDir(t)
		_, err = get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.NoError(t, err)
		require.Zero(t, fast.sent)
	})
}

// Connections are added while they bring something: on a link that each of them
// shares nothing with, all are used; on one that is full, few.
func TestConnectionsFollowWhatTheyBring(t *testing.T) {
	for name, tc := range map[string]struct {
		share     bool
		low, high int
	}{"each brings its own": {false, 16, 16}, "the link is full": {true, 1, 6}} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 32<<20, func(t *testing.T, f *fixture) {
				k := newFake(t, f)
				var active atomic.Int64
				k.open = func(ctx context.Context, off, n int64) (*download.Body, error) {
					active.Add(1)
					context.AfterFunc(ctx, func() { active.Add(-1) })
					return &download.Body{Offset: off, ReadCloser: io.NopCloser(&sharedBody{ctx, f.image[off : off+n], func() int64 {
						if tc.share {
							return 2 << 20 / max(active.Load(), 1)
						}
						return 128 << 10
					}})}, nil
				}
				cfg := f.product(t, k.source(download.KindArtifactory))
				most := 0
				cfg.Progress = func(st download.Status) { most = max(most, st.Connections) }
				_, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
				require.NoError(t, err)
				require.GreaterOrEqual(t, most, tc.low)
				require.LessOrEqual(t, most, tc.high)
			})
		})
	}
}

// sharedBody reads at a rate that may change.
type sharedBody struct {
	ctx  context.Context
	data []byte
	rate func() int64
}

func (b *sharedBody) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(b.data), 8<<10)
	t := time.NewTimer(time.Duration(n) * time.Second / time.Duration(b.rate()))
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	copy(p, b.data[:n])
	b.data = b.data[n:]
	return n, nil
}
