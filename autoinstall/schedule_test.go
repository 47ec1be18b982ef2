package autoinstall_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall"
)

// sink collects alarms and events.
type sink struct {
	mu     sync.Mutex
	alarms map[string]mooring.Alarm
	events []mooring.Event
}

func (s *sink) SetAlarm(_ context.Context, a mooring.Alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alarms == nil {
		s.alarms = map[string]mooring.Alarm{}
	}
	s.alarms[a.ID] = a
}

func (s *sink) RecordEvent(_ context.Context, e mooring.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *sink) active(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.alarms[id]
	return ok && a.Active()
}

func TestScheduleOverADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		b := newBench(t, func(c *autoinstall.Config) { c.Alarms, c.Events = &s, &s })
		var mu sync.Mutex
		var attempts []time.Duration
		start := time.Now()
		b.cfg.Discoverer = discover(func() (*autoinstall.Location, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, time.Since(start))
			return &autoinstall.Location{URLs: []string{fileURL}}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		d := b.device(t)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		mu.Lock()
		at := slices.Clone(attempts)
		mu.Unlock()
		for i := 1; i < len(at); i++ {
			want := 5 * time.Minute
			if at[i-1] >= time.Hour {
				want = time.Hour
			}
			gap := at[i] - at[i-1]
			require.GreaterOrEqual(t, gap, want, "attempt %d", i)
			require.Less(t, gap, want+want/10+time.Second, "attempt %d", i)
		}
		require.GreaterOrEqual(t, len(at), 10+20)
		require.True(t, s.active("autoinstall.missing"))

		st, err := b.device(t).Status(ctx)
		require.NoError(t, err)
		require.Equal(t, autoinstall.PhaseWaiting, st.Phase)
		require.Equal(t, len(at), st.Attempts)
		require.True(t, st.NextAttempt.After(time.Now()))
		require.Contains(t, st.Reason, "no such file")
		require.False(t, st.Refused)

		// A bad file, then the configuration. The device finds both by itself.
		b.shelf.put(fileURL, nil)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.True(t, s.active("autoinstall.refused"))
		b.shelf.put(fileURL, []byte(config1))
		require.NoError(t, <-done)
		require.False(t, s.active("autoinstall.refused"))
		require.False(t, s.active("autoinstall.missing"))
		last := s.events[len(s.events)-1]
		require.Equal(t, "autoinstall.install", last.Type)
		require.True(t, last.Permitted)
		require.False(t, s.events[0].Permitted)
		st, err = b.device(t).Status(ctx)
		require.NoError(t, err)
		require.Equal(t, autoinstall.PhaseInstalled, st.Phase)
		require.Empty(t, st.Reason)
	})
}

type discover func() (*autoinstall.Location, error)

func (d discover) Discover(context.Context) (*autoinstall.Location, error) { return d() }

func TestRefusalsKeepTheScheduleOfSilence(t *testing.T) {
	// The time of the next attempt must not tell a sender why a file failed.
	id := ecIdentity(t, "ec")
	damaged := id.seal(t, []byte(config1))
	damaged[len(damaged)/2] ^= 1
	for name, file := range map[string][]byte{"damaged": damaged, "insane": id.seal(t, []byte("garbage"))} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(c *autoinstall.Config) {
					c.Schedule.NoJitter = true
					c.Keys = []autoinstall.Key{id.asKey("vendor")}
					c.Sane = func(context.Context, []byte) error { return errors.New("no") }
				})
				b.shelf.put(fileURL, file)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Hour+time.Minute)
				defer cancel()
				require.ErrorIs(t, b.device(t).Run(ctx), context.DeadlineExceeded)
				require.Len(t, b.shelf.fetched, 12+10)
			})
		})
	}
}

func TestFaultsOfTheDeviceAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.shelf.put(fileURL, []byte(config1))
		b.installer.fail(errors.New("flash is full"))
		done := make(chan error, 1)
		d := b.device(t)
		go func() { done <- d.Run(t.Context()) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		st, err := d.Status(t.Context())
		require.NoError(t, err)
		require.Contains(t, st.Reason, "flash is full")
		b.installer.fail(nil)
		require.NoError(t, <-done)
	})
}

func TestReleaseIsCalledAfterEachAttempt(t *testing.T) {
	released := 0
	b := newBench(t, nil)
	b.cfg.Discoverer = discover(func() (*autoinstall.Location, error) {
		return &autoinstall.Location{URLs: []string{fileURL}, Release: func(context.Context) error { released++; return nil }}, nil
	})
	require.ErrorIs(t, b.device(t).Once(t.Context()), autoinstall.ErrNothingYet)
	b.shelf.put(fileURL, []byte(config1))
	require.NoError(t, b.device(t).Once(t.Context()))
	require.Equal(t, 2, released)
}

func TestDelay(t *testing.T) {
	var s autoinstall.Schedule
	seen := map[time.Duration]bool{}
	for range 100 {
		d := s.Delay(0)
		require.GreaterOrEqual(t, d, 5*time.Minute)
		require.LessOrEqual(t, d, 5*time.Minute+30*time.Second)
		seen[d] = true
	}
	require.Greater(t, len(seen), 50, "jitter")
	exact := autoinstall.Schedule{NoJitter: true}
	require.Equal(t, 5*time.Minute, exact.Delay(59*time.Minute))
	require.Equal(t, time.Hour, exact.Delay(time.Hour))
	require.Equal(t, time.Hour, exact.Delay(10000*time.Hour))
}
