package download_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

// simulate runs a test with the product's own constants in simulated time. The
// repository is made in that time, too.
func simulate(t *testing.T, size int, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFixture(t, size)) })
}

// product is the configuration with the product's defaults.
func (f *fixture) product(t *testing.T, sources ...download.Source) download.Config {
	cfg := f.config(t, sources...)
	cfg.Policy, cfg.Lab, cfg.Tuning = nil, false, download.Tuning{}
	return cfg
}

func get(t *testing.T, cfg download.Config, out string) (download.Status, error) {
	t.Helper()
	return newDownloader(t, cfg).Download(t.Context(), download.Request{Version: version, Out: out})
}

func TestWaitsDoubleUpToTheMaximum(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(&download.SourceError{Fault: download.FaultForbidden, Err: errors.New("status 403")})
		cfg := f.product(t, k.source(download.KindArtifactory))
		cfg.Policy = &download.Policy{Attempts: 10, Timeout: 10800 * time.Second, MaxRetryDelay: 600 * time.Second}
		var waits []time.Duration
		cfg.Progress = func(st download.Status) {
			if st.State == download.StateWaiting {
				waits = append(waits, time.Until(st.NextAttempt))
			}
		}
		begin := time.Now()
		st, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, download.ErrAttempts)
		require.ErrorContains(t, err, "artifactory: forbidden: status 403")
		require.Equal(t, download.StateFailed, st.State)
		s := time.Second
		require.Equal(t, []time.Duration{30 * s, 60 * s, 120 * s, 240 * s, 480 * s, 600 * s, 600 * s, 600 * s, 600 * s}, waits)
		require.Equal(t, 3330*s, time.Since(begin))
	})
}

func TestDefaultsEndByTimeout(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(errDead)
		begin := time.Now()
		_, err := get(t, f.product(t, k.source(download.KindArtifactory)), filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, download.ErrTimeout)
		require.Equal(t, 10800*time.Second, time.Since(begin))
		var failed *download.FailedError
		require.ErrorAs(t, err, &failed)
		require.Len(t, failed.Sources, 1)
	})
}

func TestNoAttemptLimitWithTimeout(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(errDead)
		cfg := f.product(t, k.source(download.KindArtifactory))
		cfg.Policy = &download.Policy{EnableTimeout: true, Timeout: 3600 * time.Second, MaxRetryDelay: 10 * time.Second}
		begin := time.Now()
		st, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, download.ErrTimeout)
		require.Equal(t, 3600*time.Second, time.Since(begin))
		require.Greater(t, st.Attempt, 200)
	})
}

func TestForEverWhenTimeoutAndAttemptsAreOff(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(errDead)
		cfg := f.product(t, k.source(download.KindArtifactory))
		cfg.Policy = &download.Policy{Timeout: 10800 * time.Second, MaxRetryDelay: 3600 * time.Second}
		day := time.AfterFunc(6*time.Hour, func() { k.setDead(nil) })
		defer day.Stop()
		begin := time.Now()
		out := filepath.Join(t.TempDir(), "i")
		_, err := get(t, cfg, out)
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begin), 6*time.Hour)
		require.Less(t, time.Since(begin), 8*time.Hour)
		f.requireImage(t, out)
	})
}

func TestNoRetryDelayDoesNotSpin(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(&download.SourceError{Fault: download.FaultForbidden, Err: errors.New("status 403")})
		cfg := f.product(t, k.source(download.KindArtifactory))
		cfg.Policy = &download.Policy{Timeout: 10800 * time.Second, Attempts: 5}
		begin := time.Now()
		_, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, download.ErrAttempts)
		require.Equal(t, 4*time.Second, time.Since(begin))
	})
}

func TestAllDeadInTheMiddleThenBack(t *testing.T) {
	simulate(t, 8<<20, func(t *testing.T, f *fixture) {
		a, b := newFake(t, f), newFake(t, f)
		a.rate, b.rate = 64<<10, 64<<10
		cfg := f.product(t, a.source(download.KindConductor1), b.source(download.KindArtifactory))
		down := time.AfterFunc(4*time.Second, func() { a.setDead(errDead); b.setDead(errDead) })
		defer down.Stop()
		up := time.AfterFunc(30*time.Minute, func() { a.setDead(nil); b.setDead(nil) })
		defer up.Stop()
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, cfg, out)
		require.NoError(t, err)
		f.requireImage(t, out)
		require.Greater(t, st.Attempt, 3)
		require.Equal(t, int64(len(f.image)), st.Received, "it went on at the byte where it stopped")
	})
}

func TestSwitchAtTheByte(t *testing.T) {
	simulate(t, 8<<20, func(t *testing.T, f *fixture) {
		a, b := newFake(t, f), newFake(t, f)
		a.rate = 100_000
		cfg := f.product(t, a.source(download.KindConductor1), b.source(download.KindConductor2))
		down := time.AfterFunc(5*time.Second, func() { a.setDead(errDead) })
		defer down.Stop()
		begin := time.Now()
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, cfg, out)
		require.NoError(t, err)
		f.requireImage(t, out)
		require.Less(t, time.Since(begin), 10*time.Second, "no wait lies between two sources")
		require.Equal(t, int64(len(f.image)), a.sent+b.sent)
		require.Equal(t, 1, st.Attempt)
		require.Greater(t, a.sent, int64(400_000))
		require.Equal(t, "unavailable", st.Sources[0].State)
	})
}

func TestStalledAndSlowSourcesAreLeft(t *testing.T) {
	for name, rate := range map[string]int64{"stalled": 0, "slow": 500} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 4<<20, func(t *testing.T, f *fixture) {
				a, b := newFake(t, f), newFake(t, f)
				a.rate = rate
				if rate == 0 {
					a.open = func(ctx context.Context, off, _ int64) (*download.Body, error) {
						return &download.Body{Offset: off, ReadCloser: io.NopCloser(hang{ctx})}, nil
					}
				}
				begin := time.Now()
				out := filepath.Join(t.TempDir(), "i")
				_, err := get(t, f.product(t, a.source(download.KindConductor1), b.source(download.KindConductor2)), out)
				require.NoError(t, err)
				f.requireImage(t, out)
				require.Less(t, time.Since(begin), 70*time.Second)
				require.Greater(t, b.sent, int64(len(f.image)*9/10))
			})
		})
	}
}

// hang is a body that brings nothing.
type hang struct{ ctx context.Context }

func (h hang) Read([]byte) (int, error) {
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

// A link that is cut every few hundred kilobytes is slow, not dead.
func TestCutsThatMoveOnNeverWait(t *testing.T) {
	simulate(t, 64<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.open = func(ctx context.Context, off, n int64) (*download.Body, error) {
			n = min(n, 200<<10)
			return &download.Body{Offset: off, ReadCloser: io.NopCloser(&fakeBody{k: k, ctx: ctx, data: f.image[off : off+n]})}, nil
		}
		begin := time.Now()
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, f.product(t, k.source(download.KindArtifactory)), out)
		require.NoError(t, err)
		f.requireImage(t, out)
		require.Equal(t, 1, st.Attempt)
		require.Less(t, time.Since(begin), 29*time.Second)
		require.Equal(t, int64(len(f.image)), st.Received)
	})
}

// Seventy seconds without an answer, on the only source, end in no wait.
func TestBlackHoleIsRiddenOut(t *testing.T) {
	simulate(t, 64<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.rate = 512 << 10
		hole := false
		var mu sync.Mutex
		isHole := func() bool { mu.Lock(); defer mu.Unlock(); return hole }
		set := func(v bool) func() { return func() { mu.Lock(); hole = v; mu.Unlock() } }
		k.open = func(ctx context.Context, off, n int64) (*download.Body, error) {
			// A connection is begun again each second, as the HTTP source does.
			for isHole() {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(time.Second):
				}
			}
			return &download.Body{Offset: off, ReadCloser: io.NopCloser(&holeBody{fakeBody{k: k, ctx: ctx, data: f.image[off : off+n]}, isHole})}, nil
		}
		cfg := f.product(t, k.source(download.KindArtifactory))
		begin := time.Now()
		_, err := get(t, cfg, filepath.Join(t.TempDir(), "a"))
		require.NoError(t, err)
		plain := time.Since(begin)

		defer time.AfterFunc(3*time.Second, set(true)).Stop()
		defer time.AfterFunc(73*time.Second, set(false)).Stop()
		cfg.StateDir = stateDir(t)
		begin = time.Now()
		st, err := get(t, cfg, filepath.Join(t.TempDir(), "b"))
		require.NoError(t, err)
		require.Equal(t, 1, st.Attempt)
		require.LessOrEqual(t, time.Since(begin), plain+72*time.Second)
	})
}

type holeBody struct {
	fakeBody
	hole func() bool
}

func (b *holeBody) Read(p []byte) (int, error) {
	if b.hole() {
		<-b.ctx.Done() // what was sent into the hole is lost, and so is the connection
		return 0, b.ctx.Err()
	}
	return b.fakeBody.Read(p)
}

func TestBusySourcesCostNoAttempt(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(&download.SourceError{Fault: download.FaultBusy, Err: errors.New("status 503"), RetryAfter: 100 * time.Second})
		cfg := f.product(t, k.source(download.KindArtifactory))
		cfg.Policy = &download.Policy{EnableTimeout: true, Timeout: 7200 * time.Second, Attempts: 1, MaxRetryDelay: time.Hour}
		defer time.AfterFunc(3000*time.Second, func() { k.setDead(nil) }).Stop()
		begin := time.Now()
		st, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.NoError(t, err)
		require.Equal(t, 1, st.Attempt)
		require.Less(t, time.Since(begin), 3110*time.Second)
	})
}

func TestPauseOverARestartKeepsTheBudget(t *testing.T) {
	simulate(t, 8<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.rate = 64 << 10
		cfg := f.product(t, k.source(download.KindArtifactory))
		out := filepath.Join(t.TempDir(), "i")
		store := download.NewStore(cfg.StateDir)
		require.ErrorIs(t, store.Pause(version, "x"), download.ErrUnknown)

		ctx, kill := context.WithCancel(t.Context())
		done := make(chan error, 1)
		start := func() {
			go func() {
				_, err := newDownloader(t, cfg).Download(ctx, download.Request{Version: version, Out: out})
				done <- err
			}()
		}
		start()
		time.Sleep(5 * time.Second)
		st, err := store.Show(version)
		require.NoError(t, err)
		require.Equal(t, download.StateDownloading, st.State)
		deadline := st.Deadline
		require.NoError(t, store.Pause(version, "by the operator"))
		time.Sleep(time.Second)
		sent := k.bytesSent()
		kill()
		require.ErrorIs(t, <-done, context.Canceled)

		st, err = store.Show(version)
		require.NoError(t, err)
		require.Equal(t, download.StatePaused, st.State)
		require.Equal(t, "by the operator", st.Reason)

		ctx = t.Context()
		start()
		time.Sleep(time.Hour)
		require.Equal(t, sent, k.bytesSent(), "it stays paused over the restart")
		running, err := store.Resume(version)
		require.NoError(t, err)
		require.True(t, running)
		time.Sleep(2 * time.Second)
		st, err = store.Show(version)
		require.NoError(t, err)
		require.WithinDuration(t, deadline.Add(time.Hour+time.Second), st.Deadline, 2*time.Second, "paused time does not count")
		require.NoError(t, <-done)
		f.requireImage(t, out)
		require.Equal(t, 1, st.Attempt)
		require.LessOrEqual(t, k.bytesSent(), int64(len(f.image))+256<<10)
	})
}

func TestAttemptsAndDeadlineOutliveTheProcess(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(&download.SourceError{Fault: download.FaultForbidden, Err: errors.New("status 403")})
		cfg := f.product(t, k.source(download.KindArtifactory))
		out := filepath.Join(t.TempDir(), "i")
		begin := time.Now()
		ctx, kill := context.WithTimeout(t.Context(), 200*time.Second) // three attempts
		defer kill()
		_, err := newDownloader(t, cfg).Download(ctx, download.Request{Version: version, Out: out})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		st, err := get(t, cfg, out)
		require.ErrorIs(t, err, download.ErrTimeout)
		require.Equal(t, 10800*time.Second, time.Since(begin))
		require.Greater(t, st.Attempt, 5)
		// A failed download begins with a new budget.
		k.setDead(nil)
		st, err = get(t, cfg, out)
		require.NoError(t, err)
		require.Equal(t, 1, st.Attempt)
	})
}

func TestRollbackExpiryAndConflict(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		cfg := f.product(t, k.source(download.KindArtifactory))
		out := filepath.Join(t.TempDir(), "i")
		// A newer image under the same version is taken ..
		time.Sleep(time.Minute)
		newer := *f
		newer.dir, newer.image = t.TempDir(), imageBytes(1<<20, 2)
		newer.manifest = newer.make(t, newer.dir, newer.image, repo.MakeConfig{})
		both := f.product(t, k.source(download.KindConductor1), newFake(t, &newer).source(download.KindArtifactory))
		both.StateDir = cfg.StateDir
		st, err := get(t, both, out)
		require.NoError(t, err)
		newer.requireImage(t, out)
		require.Zero(t, k.sent, "the source with the older image is left out")
		require.Contains(t, st.Sources[0].Name, "artifactory")
		// .. and after that the older one is refused, even when nobody else is there.
		begin := time.Now()
		_, err = get(t, cfg, out)
		require.ErrorIs(t, err, download.ErrRollback)
		require.ErrorContains(t, err, "artifactory")
		require.Less(t, time.Since(begin), time.Minute, "asking again would not help")
		newer.requireImage(t, out)

		// The same counter for two images is refused.
		other := *f
		other.dir, other.image = t.TempDir(), imageBytes(1<<20, 3)
		now := time.UnixMilli(int64(newer.manifest.Counter))
		other.manifest = other.make(t, other.dir, other.image, repo.MakeConfig{Now: func() time.Time { return now }})
		require.Equal(t, newer.manifest.Counter, other.manifest.Counter)
		fresh := f.product(t, newFake(t, &newer).source(download.KindConductor1), newFake(t, &other).source(download.KindArtifactory))
		_, err = get(t, fresh, filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, download.ErrConflict)

		// A year later the manifest has expired.
		time.Sleep(366 * 24 * time.Hour)
		cfg = f.product(t, newFake(t, &newer).source(download.KindArtifactory))
		out = filepath.Join(t.TempDir(), "i")
		_, err = get(t, cfg, out)
		require.ErrorIs(t, err, repo.ErrExpired)
		require.NoFileExists(t, out)
	})
}

func TestUnknownVersionAndKeyEndAtOnce(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		cfg := f.product(t, k.source(download.KindArtifactory))
		_, err := newDownloader(t, cfg).Download(t.Context(), download.Request{Version: "SSR-9", Out: filepath.Join(t.TempDir(), "i")})
		require.ErrorIs(t, err, download.ErrNoVersion)
		stranger, err := repo.NewVerifier(newStranger(t))
		require.NoError(t, err)
		cfg.Trust = stranger
		_, err = get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.ErrorIs(t, err, repo.ErrNotSigned)
	})
}

func TestWrongBytesAreNamed(t *testing.T) {
	simulate(t, 4<<20, func(t *testing.T, f *fixture) {
		bad, good := newFake(t, f), newFake(t, f)
		lie := imageBytes(len(f.image), 77)
		bad.open = func(ctx context.Context, off, n int64) (*download.Body, error) {
			return &download.Body{Offset: off, ReadCloser: io.NopCloser(&fakeBody{k: bad, ctx: ctx, data: lie[off : off+n]})}, nil
		}
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, f.product(t, bad.source(download.KindConductor1), good.source(download.KindArtifactory)), out)
		require.NoError(t, err)
		f.requireImage(t, out)
		require.Equal(t, "left out", st.Sources[0].State)
		require.Contains(t, st.Sources[0].Error, "conductor-1: wrong bytes")

		// Alone, it leads to a failure that names it, and to no file.
		out = filepath.Join(t.TempDir(), "i")
		_, err = get(t, f.product(t, bad.source(download.KindConductor1)), out)
		require.ErrorContains(t, err, "conductor-1: wrong bytes")
		require.NoFileExists(t, out)
	})
}

func TestBandwidthLimit(t *testing.T) {
	simulate(t, 8<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		cfg := f.product(t, k.source(download.KindArtifactory))
		p := download.DefaultPolicy()
		p.MaxBandwidth = 8 * 100_000
		cfg.Policy = &p
		begin := time.Now()
		_, err := get(t, cfg, filepath.Join(t.TempDir(), "i"))
		require.NoError(t, err)
		ideal := float64(len(f.image)) / 100_000
		require.InDelta(t, ideal, time.Since(begin).Seconds(), ideal*0.02)
	})
}

func TestAlarmAndEvents(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		k.setDead(errDead)
		cfg := f.product(t, k.source(download.KindArtifactory))
		s := &sinks{}
		cfg.Alarms, cfg.Events = s, s
		out := filepath.Join(t.TempDir(), "i")
		_, err := get(t, cfg, out)
		require.Error(t, err)
		require.True(t, s.alarms[len(s.alarms)-1].Active())
		k.setDead(nil)
		_, err = get(t, cfg, out)
		require.NoError(t, err)
		require.False(t, s.alarms[len(s.alarms)-1].Active())
		require.Equal(t, s.alarms[0].ID, s.alarms[len(s.alarms)-1].ID)
		require.Equal(t, "software.download_complete", s.events[len(s.events)-1].Type)
	})
}

type sinks struct {
	alarms []mooring.Alarm
	events []mooring.Event
}

func (s *sinks) SetAlarm(_ context.Context, a mooring.Alarm)    { s.alarms = append(s.alarms, a) }
func (s *sinks) RecordEvent(_ context.Context, e mooring.Event) { s.events = append(s.events, e) }
