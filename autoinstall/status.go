package autoinstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/mooringlib/mooring"
)

// Phase is what the device does.
type Phase string

// The phases.
const (
	// PhaseIdle: nobody has looked for a configuration yet.
	PhaseIdle Phase = "idle"
	// PhaseTrying: an attempt runs, or was cut off by a loss of power.
	PhaseTrying Phase = "trying"
	// PhaseWaiting: the last attempt brought nothing.
	PhaseWaiting Phase = "waiting"
	// PhaseInstalled: a configuration is in force.
	PhaseInstalled Phase = "installed"
)

// Status is what a person wants to know who stands before the device.
type Status struct {
	Serial string `json:"serial"`
	Phase  Phase  `json:"phase"`
	// Attempts counts since the last installation or reset.
	Attempts int `json:"attempts,omitempty"`
	// FirstAttempt is of the present run, LastAttempt is the newest one.
	FirstAttempt time.Time `json:"first_attempt,omitzero"`
	LastAttempt  time.Time `json:"last_attempt,omitzero"`
	// NextAttempt is zero when none is planned.
	NextAttempt time.Time `json:"next_attempt,omitzero"`
	// Reason is why the last attempt brought nothing; Refused says that
	// something was offered and refused.
	Reason  string `json:"reason,omitempty"`
	Refused bool   `json:"refused,omitempty"`
	// Counter is the highest owner's counter that was installed.
	Counter uint64 `json:"counter,omitempty"`
	// Installed is the whole configuration in force, Part what was loaded on
	// top of it last.
	Installed *InstalledConfiguration `json:"installed,omitempty"`
	Part      *InstalledConfiguration `json:"part,omitempty"`
}

// runStatus is the file behind the part of Status that is about attempts.
type runStatus struct {
	Phase        Phase     `json:"phase"`
	Attempts     int       `json:"attempts,omitempty"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"`
	LastAttempt  time.Time `json:"last_attempt,omitzero"`
	NextAttempt  time.Time `json:"next_attempt,omitzero"`
	Reason       string    `json:"reason,omitempty"`
	Refused      bool      `json:"refused,omitempty"`
}

// Status reads the record. It takes no lock and works while another process
// runs the device.
func (d *Device) Status(ctx context.Context) (Status, error) {
	s, err := d.loadState()
	if err != nil {
		return Status{}, err
	}
	r, err := d.runStatus()
	if err != nil {
		return Status{}, err
	}
	current, err := d.cfg.Installer.Current(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("autoinstall: ask for the present configuration: %w", err)
	}
	st := Status{
		Serial: d.cfg.Serial, Phase: r.Phase, Attempts: r.Attempts, FirstAttempt: r.FirstAttempt,
		LastAttempt: r.LastAttempt, NextAttempt: r.NextAttempt, Reason: r.Reason, Refused: r.Refused,
		Counter: s.Counter,
	}
	switch {
	case current != "":
		st.Phase, st.Part = PhaseInstalled, s.Part
		if s.Installed != nil && s.Installed.Digest == current {
			st.Installed = s.Installed
		} else {
			// It came from elsewhere, such as a person at the console.
			st.Installed = &InstalledConfiguration{Digest: current}
		}
	case st.Phase == PhaseInstalled:
		st.Phase = PhaseIdle
	}
	return st, nil
}

// runStatus reads the file. A damaged one says nothing of importance and is
// written anew by the next attempt.
func (d *Device) runStatus() (runStatus, error) {
	r := runStatus{Phase: PhaseIdle}
	err := readJSON(filepath.Join(d.cfg.Dir, statusFile), &r)
	var pathErr *fs.PathError
	if err != nil && errors.As(err, &pathErr) && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("autoinstall: read %s: %w", statusFile, err)
	}
	if err != nil {
		r = runStatus{Phase: PhaseIdle}
	}
	return r, nil
}

func (d *Device) noteAttempt(first time.Time) error {
	r, err := d.runStatus()
	if err != nil {
		return err
	}
	now := d.cfg.Now().UTC()
	if r.Phase == PhaseInstalled {
		r = runStatus{}
	}
	r.Phase, r.FirstAttempt, r.LastAttempt, r.NextAttempt = PhaseTrying, first.UTC(), now, time.Time{}
	r.Attempts++
	return d.writeJSON(statusFile, r)
}

// noteWaiting is called without the lock held, and takes it: others sweep and
// write the status too.
func (d *Device) noteWaiting(ctx context.Context, cause error, wait time.Duration) error {
	unlock, err := lock(ctx, d.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := d.runStatus()
	if err != nil {
		return err
	}
	r.Phase, r.Reason, r.Refused = PhaseWaiting, reason(cause), errors.Is(cause, ErrRefused)
	if wait > 0 {
		r.NextAttempt = d.cfg.Now().Add(wait).UTC()
	}
	if r.Refused {
		d.alarmRefused(ctx, cause)
	} else if d.cfg.Now().Sub(r.FirstAttempt) >= d.cfg.Schedule.EarlyFor {
		d.alarm(ctx, mooring.Alarm{ID: alarmMissing, Severity: mooring.SeverityMinor, Text: r.Reason})
	}
	return d.writeJSON(statusFile, r)
}

func (d *Device) noteInstalled(ctx context.Context) error {
	now := d.cfg.Now()
	d.alarm(ctx, mooring.Alarm{ID: alarmRefused, Severity: mooring.SeverityMajor, Cleared: now})
	d.alarm(ctx, mooring.Alarm{ID: alarmMissing, Severity: mooring.SeverityMinor, Cleared: now})
	r, err := d.runStatus()
	if err != nil {
		return err
	}
	if r.Phase == PhaseInstalled {
		return nil
	}
	r.Phase, r.NextAttempt, r.Reason, r.Refused = PhaseInstalled, time.Time{}, "", false
	return d.writeJSON(statusFile, r)
}

// The alarms of this package.
const (
	alarmRefused = "autoinstall.refused"
	alarmMissing = "autoinstall.missing"
)

func (d *Device) alarmRefused(ctx context.Context, cause error) {
	d.alarm(ctx, mooring.Alarm{ID: alarmRefused, Severity: mooring.SeverityMajor, Text: reason(cause)})
}

func (d *Device) alarm(ctx context.Context, a mooring.Alarm) {
	if d.cfg.Alarms == nil {
		return
	}
	a.Subject, a.Raised = d.cfg.Serial, d.cfg.Now()
	d.cfg.Alarms.SetAlarm(ctx, a)
}

func (d *Device) record(ctx context.Context, event, text string, detail *record, permitted bool) {
	if d.cfg.Events == nil {
		return
	}
	e := mooring.Event{Type: event, Time: d.cfg.Now(), Node: d.cfg.Serial, Description: text, Permitted: permitted}
	if detail != nil {
		e.Detail, _ = json.Marshal(detail)
	}
	d.cfg.Events.RecordEvent(ctx, e)
}

// reason is an error as one bounded line.
func reason(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
