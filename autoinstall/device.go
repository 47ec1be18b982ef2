package autoinstall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Run looks for a configuration until one is installed, and returns nil then; it
// returns at once when there is one already. It tries again by Config.Schedule,
// for ever, also after faults of the device such as a TPM that doesn't answer or
// an Installer that fails: only ctx, [ErrState] and a disk that takes no status
// end it. Status says what it waits for.
func (d *Device) Run(ctx context.Context) error {
	first := d.cfg.Now()
	for {
		err := d.attempt(ctx, first)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrState) || errors.Is(err, errIncomplete):
			return err
		}
		wait := d.cfg.Schedule.delay(d.cfg.Now().Sub(first))
		d.cfg.Logger.Info("no configuration installed", slog.Any("reason", err), slog.Duration("next_attempt_in", wait))
		if err := d.noteWaiting(ctx, err, wait); err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// Once makes one attempt. nil means that a configuration is in force, the one
// just found or an earlier one; [ErrNothingYet] that there is nothing to be had,
// [ErrRefused] that what was offered is not acceptable.
func (d *Device) Once(ctx context.Context) error {
	err := d.attempt(ctx, d.cfg.Now())
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrState) || errors.Is(err, errIncomplete) {
		return err
	}
	return errors.Join(err, d.noteWaiting(ctx, err, 0))
}

var errIncomplete = errors.New("autoinstall: Run and Once need Config.Discoverer and Config.Fetcher")

// attempt is one round of discovery, fetching and installing.
func (d *Device) attempt(ctx context.Context, first time.Time) error {
	if d.cfg.Discoverer == nil || d.cfg.Fetcher == nil {
		return errIncomplete
	}
	unlock, s, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	current, err := d.cfg.Installer.Current(ctx)
	if err != nil {
		return fmt.Errorf("autoinstall: ask for the present configuration: %w", err)
	}
	if current != "" {
		return d.noteInstalled(ctx)
	}
	if err := d.noteAttempt(first); err != nil {
		return err
	}
	loc, err := d.cfg.Discoverer.Discover(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, ErrRefused) {
			err = nothingYet(err)
		}
		return err
	}
	defer d.release(ctx, loc)
	return d.tryAll(ctx, loc, s)
}

func (d *Device) release(ctx context.Context, loc *Location) {
	if loc.Release == nil {
		return
	}
	// The address is given back even when ctx has ended.
	if err := loc.Release(context.WithoutCancel(ctx)); err != nil {
		d.cfg.Logger.Warn("giving the network back failed", slog.Any("error", err))
	}
}

// tryAll tries every place. What was refused is told before what was not there.
func (d *Device) tryAll(ctx context.Context, loc *Location, s *state) error {
	var refused, missing error
	silent := make(map[string]bool) // servers that gave no answer
	for _, text := range loc.URLs[:min(len(loc.URLs), maxSources)] {
		u, err := CheckURL(text)
		if err != nil {
			refused = errors.Join(refused, &RefusedError{Err: err})
			continue
		}
		if silent[u.Host] {
			continue
		}
		d.cfg.Logger.Info("fetching", slog.String("url", u.Redacted()))
		file, err := d.cfg.Fetcher.Fetch(ctx, u, loc.Resolvers, d.cfg.MaxSize)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrTooLarge):
			refused = errors.Join(refused, &RefusedError{Source: text, Err: err})
			continue
		case err != nil:
			silent[u.Host] = unanswered(err)
			missing = errors.Join(missing, fmt.Errorf("%.200q: %w", text, err))
			continue
		}
		begun := time.Now()
		err = d.install(ctx, file, Load{Source: text}, s)
		if err == nil {
			return nil
		}
		if err := pad(ctx, begun, err); err != nil {
			return err
		}
		if !errors.Is(err, ErrRefused) {
			return err
		}
		refused = errors.Join(refused, err)
	}
	if refused != nil {
		return refused
	}
	if missing == nil {
		missing = errors.New("nobody named a server")
	}
	return nothingYet(missing)
}

// pad makes vague refusals take the same time, whatever failed: the server sees
// when the next request comes.
func pad(ctx context.Context, begun time.Time, err error) error {
	var r *RefusedError
	if !errors.As(err, &r) || !r.vague {
		return nil
	}
	timer := time.NewTimer(refusalTime - time.Since(begun))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Load says what [Device.Load] is given.
type Load struct {
	// Source names the file, for messages and the record.
	Source string
	// Part says that the file is a part of a configuration, to be merged into
	// the one in force.
	Part bool
}

// Load installs a file on a running device, by the same rules as one that was
// fetched (RFC 8886 section 5.3). Nothing is done, and nil returned, when the
// very same configuration is in force already. A part needs a whole one to be
// added to, see [ErrNoWhole].
func (d *Device) Load(ctx context.Context, file []byte, l Load) error {
	unlock, s, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if l.Part {
		current, err := d.cfg.Installer.Current(ctx)
		if err != nil {
			return fmt.Errorf("autoinstall: ask for the present configuration: %w", err)
		}
		if current == "" {
			return &RefusedError{Source: l.Source, Err: ErrNoWhole}
		}
	}
	err = d.install(ctx, file, l, s)
	if errors.Is(err, ErrRefused) {
		d.alarmRefused(ctx, err)
	}
	return err
}

// Reset is the factory reset (section 5.3): the configuration is taken out of
// force, and the next Run starts from discovery again. Keys are not touched, see
// package devicekey, and neither is the counter.
func (d *Device) Reset(ctx context.Context) error {
	unlock, s, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.cfg.Installer.Remove(ctx); err != nil {
		return fmt.Errorf("autoinstall: remove the configuration: %w", err)
	}
	s.Installed, s.Part, s.Intent, s.Uncertain = nil, nil, nil, false
	if err := d.saveState(s); err != nil {
		return err
	}
	d.record(ctx, "autoinstall.reset", "configuration removed by factory reset", nil, true)
	return d.writeJSON(statusFile, runStatus{Phase: PhaseIdle})
}

// open takes the lock and finishes what a crash interrupted.
func (d *Device) open(ctx context.Context) (unlock func(), s *state, err error) {
	if err := d.cfg.disk.MkdirAll(d.cfg.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	unlock, err = lock(ctx, d.cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	if s, err = d.recover(ctx); err != nil {
		unlock()
		return nil, nil, err
	}
	return unlock, s, nil
}

func (d *Device) recover(ctx context.Context) (*state, error) {
	// Only what is written under the lock: the product may keep files of its
	// own in Dir and replace them at any time.
	if err := d.cfg.disk.Sweep(d.cfg.Dir, stateFile, statusFile); err != nil {
		return nil, err
	}
	s, err := d.loadState()
	if err != nil || s.Intent == nil {
		return s, err
	}
	current, err := d.cfg.Installer.Current(ctx)
	if err != nil {
		return nil, fmt.Errorf("autoinstall: ask for the present configuration: %w", err)
	}
	parts := s.Part != nil || s.Uncertain
	switch {
	case !s.Intent.Part && current == s.Intent.Digest:
		d.cfg.Logger.Info("an interrupted installation has come into force", slog.String("digest", current))
		s.commit()
		// It may be the one that was in force before, with parts.
		s.Uncertain = parts
	case s.Intent.Part:
		d.cfg.Logger.Info("an interrupted part may be in force", slog.String("digest", s.Intent.Digest))
		s.raise(s.Intent)
		s.Intent, s.Uncertain = nil, true
	default:
		d.cfg.Logger.Info("an interrupted installation has not come into force", slog.String("digest", s.Intent.Digest))
		s.Intent, s.Uncertain = nil, parts
	}
	return s, d.saveState(s)
}

// install examines a file and puts it into force.
func (d *Device) install(ctx context.Context, file []byte, l Load, s *state) error {
	c, err := d.examine(ctx, file, l.Source, s)
	if err != nil {
		if errors.Is(err, ErrRefused) {
			d.record(ctx, "autoinstall.refuse", reason(err), nil, false)
		}
		return err
	}
	c.Part = l.Part
	repeated, err := d.repeated(ctx, c, s)
	if err != nil {
		return err
	}
	if repeated && s.Counter >= c.Counter {
		d.cfg.Logger.Info("already in force", slog.String("digest", c.Digest))
		return d.noteInstalled(ctx)
	}
	s.Intent = &record{
		Digest: c.Digest, Size: len(c.Content), Time: d.cfg.Now().UTC(), Source: c.Source, Part: c.Part,
		Encrypted: c.Encrypted, Authenticated: c.Authenticated, Key: c.Key, Counter: c.Counter,
	}
	if c.Owner != nil {
		s.Intent.Owner = c.Owner.Subject.String()
	}
	if err := d.saveState(s); err != nil {
		return err
	}
	if !repeated {
		if err := d.cfg.Installer.Install(ctx, c); err != nil {
			// The next open asks the Installer whether it has come into force.
			return fmt.Errorf("autoinstall: install: %w", err)
		}
	}
	s.commit()
	if err := d.saveState(s); err != nil {
		return err
	}
	d.cfg.Logger.Info("installed", slog.String("digest", c.Digest), slog.String("source", c.Source))
	d.record(ctx, "autoinstall.install", "configuration installed from "+c.Source, s.last(), true)
	return d.noteInstalled(ctx)
}

// repeated says whether c is what is in force already.
func (d *Device) repeated(ctx context.Context, c *Configuration, s *state) (bool, error) {
	current, err := d.cfg.Installer.Current(ctx)
	if err != nil {
		return false, fmt.Errorf("autoinstall: ask for the present configuration: %w", err)
	}
	switch {
	case s.Uncertain:
		return false, nil
	case c.Part:
		// A part belongs to the whole one that it was loaded on.
		return s.Part != nil && s.Part.Digest == c.Digest && s.Installed != nil && s.Installed.Digest == current, nil
	default:
		return current == c.Digest && s.Part == nil, nil
	}
}
