package integrity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/integrity/cause"
)

// Run is the service. It blocks networking, unlocks, lets networking come up,
// says that it is ready, and watches the directories. After an integrity event it
// blocks networking, writes the emergency text, and tries again after a growing
// wait, each time writing it again, until it succeeds. It returns nil when ctx
// ends, and leaves the directories as they are.
func (h *Handler) Run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(h.cfg.RetryMin),
		backoff.WithMaxInterval(h.cfg.RetryMax),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxElapsedTime(0),
	)
	defer h.notify(ctx, "STOPPING=1")
	for ctx.Err() == nil {
		err := h.attempt(ctx)
		if err == nil {
			retry.Reset()
			err = h.watch(ctx)
			if err == nil {
				break
			}
			h.raise(ctx, err)
		}
		if ctx.Err() != nil {
			break
		}
		wait := retry.NextBackOff()
		h.notify(ctx, fmt.Sprintf("STATUS=integrity event %s, next attempt in %s", cause.Of(err), wait))
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	return nil
}

// RunOnce is one attempt of Run, for a machine whose services are ordered by
// something else: it blocks networking, unlocks and verifies, and either lets
// networking come up and returns nil, or writes the emergency text and returns
// the integrity event.
func (h *Handler) RunOnce(ctx context.Context) error { return h.attempt(ctx) }

func (h *Handler) attempt(ctx context.Context) error {
	// What cannot be blocked now must not keep the event from being told.
	blocked := h.cfg.Network.Block(ctx, "protected directories are not verified yet")
	err := h.Unlock(ctx)
	if cause.Of(err) == cause.NotEnabled && h.cfg.EnableOnFirstRun {
		if err = h.Enable(ctx); err == nil {
			err = h.Unlock(ctx)
		}
	}
	if err == nil && blocked != nil {
		err = fmt.Errorf("integrity: block network: %w", blocked)
	}
	if err != nil {
		if ctx.Err() == nil {
			h.raise(ctx, err)
		}
		return err
	}
	if err := h.cfg.Network.Allow(ctx); err != nil {
		err = fmt.Errorf("integrity: allow network: %w", err)
		h.raise(ctx, err)
		return err
	}
	h.ready(ctx)
	return nil
}

func (h *Handler) ready(ctx context.Context) {
	h.mu.Lock()
	h.remembered = ""
	h.mu.Unlock()
	h.alarm(ctx, mooring.Alarm{Cleared: h.cfg.Now()})
	h.event(ctx, "system.integrity_verified", "protected directories are verified and open", nil)
	h.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "protected directories are verified and open")
	h.notify(ctx, "READY=1\nSTATUS=protected directories are verified and open")
}

// watch looks at the open directories until ctx ends or something is wrong.
func (h *Handler) watch(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.WatchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := h.look(); err != nil {
				if berr := h.cfg.Network.Block(ctx, string(cause.Of(err))); berr != nil {
					err = errors.Join(err, fmt.Errorf("integrity: block network: %w", berr))
				}
				return err
			}
		}
	}
}

func (h *Handler) look() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.manifest == nil {
		return nil
	}
	if err := h.verifyPolicies(h.manifest); err != nil {
		return err
	}
	return h.verifyReadable(h.manifest)
}

func (h *Handler) notify(ctx context.Context, state string) {
	if err := h.cfg.Notify(state); err != nil {
		h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "service manager was not told", slog.Any("error", err))
	}
}

// raise tells everybody of an integrity event.
func (h *Handler) raise(ctx context.Context, err error) {
	text := EmergencyText(err)
	h.cfg.Logger.LogAttrs(ctx, slog.LevelError, "integrity event", slog.String("cause", string(cause.Of(err))), slog.Any("error", err))
	if h.cfg.Emergency != nil {
		if serr := h.cfg.Emergency.Emergency(ctx, text); serr != nil {
			h.cfg.Logger.LogAttrs(ctx, slog.LevelError, "emergency text was not shown everywhere", slog.Any("error", serr))
		}
	}
	h.alarm(ctx, mooring.Alarm{Raised: h.cfg.Now(), Text: oneLine(text)})
	h.event(ctx, "system.integrity_event", "configuration integrity event", err)
	h.remember(ctx, err)
}

func (h *Handler) alarm(ctx context.Context, a mooring.Alarm) {
	if h.cfg.Alarms == nil {
		return
	}
	a.ID, a.Severity, a.Subject = "integrity.event", mooring.SeverityCritical, "configuration integrity"
	h.cfg.Alarms.SetAlarm(ctx, a)
}

func (h *Handler) event(ctx context.Context, kind, description string, err error) {
	if h.cfg.Events == nil {
		return
	}
	e := mooring.Event{Type: kind, Time: h.cfg.Now(), Node: h.cfg.Node, Description: description, Permitted: err == nil}
	if err != nil {
		e.Detail, _ = json.Marshal(map[string]string{"cause": string(cause.Of(err)), "error": err.Error()})
	}
	h.cfg.Events.RecordEvent(ctx, e)
}

func oneLine(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", " ") }
