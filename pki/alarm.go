package pki

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
)

// alarmBook remembers what was raised, so that nothing is said twice.
type alarmBook struct {
	mu   sync.Mutex
	open map[string]mooring.Alarm
}

// alarm raises, changes or (severity 0) clears an alarm.
func (m *Manager) alarm(ctx context.Context, id, subject string, severity mooring.Severity, text string) {
	if text == "" {
		severity = 0
	}
	if len(text) > maxAlarmText {
		text = text[:maxAlarmText] + "..."
	}
	b := &m.alarms
	b.mu.Lock()
	defer b.mu.Unlock()
	old, raised := b.open[id]
	switch {
	case severity == 0 && !raised, raised && old.Severity == severity && old.Text == text:
		return
	case severity == 0:
		delete(b.open, id)
		old.Cleared = m.now()
		m.setAlarm(ctx, old)
		return
	}
	a := mooring.Alarm{ID: id, Severity: severity, Subject: subject, Text: text, Raised: m.now()}
	if raised {
		a.Raised = old.Raised
	}
	if b.open == nil {
		b.open = map[string]mooring.Alarm{}
	}
	b.open[id] = a
	m.setAlarm(ctx, a)
}

func (m *Manager) setAlarm(ctx context.Context, a mooring.Alarm) {
	m.cfg.Logger.WarnContext(ctx, "alarm", "id", a.ID, "severity", a.Severity, "text", a.Text, "active", a.Active())
	if m.cfg.Alarms != nil {
		m.cfg.Alarms.SetAlarm(ctx, a)
	}
}

// clearOthers clears the alarms under a prefix whose subject is gone.
func (m *Manager) clearOthers(ctx context.Context, prefix string, there func(subject string) bool) {
	var gone []mooring.Alarm
	m.alarms.mu.Lock()
	for id, a := range m.alarms.open {
		if strings.HasPrefix(id, prefix) && !there(a.Subject) {
			gone = append(gone, a)
		}
	}
	m.alarms.mu.Unlock()
	for _, a := range gone {
		m.alarm(ctx, a.ID, a.Subject, 0, "")
	}
}

// Alarms returns the alarms that are raised now, the most severe first.
func (m *Manager) Alarms() []mooring.Alarm {
	m.alarms.mu.Lock()
	out := make([]mooring.Alarm, 0, len(m.alarms.open))
	for _, a := range m.alarms.open {
		out = append(out, a)
	}
	m.alarms.mu.Unlock()
	slices.SortFunc(out, func(a, b mooring.Alarm) int {
		if a.Severity != b.Severity {
			return int(b.Severity) - int(a.Severity)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// Run sweeps until ctx ends, and renews certificates when an Enroller is set. It
// returns ctx's error. A sweep that fails is logged and tried again.
func (m *Manager) Run(ctx context.Context) error {
	var renewals sync.WaitGroup
	defer renewals.Wait()
	for {
		if err := m.Sweep(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "sweep", "error", err)
			m.alarm(ctx, "pki.directory", m.cfg.Dir, mooring.SeverityMajor, "certificates cannot be checked: "+err.Error())
		} else {
			m.alarm(ctx, "pki.directory", m.cfg.Dir, 0, "")
		}
		m.renewDue(ctx, &renewals)
		t := time.NewTimer(m.nextLook())
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// nextLook is the time until the next sweep: the interval, or less when a
// threshold of an own certificate is passed before.
func (m *Manager) nextLook() time.Duration {
	now := m.now()
	wait := m.cfg.CheckInterval
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, e := range m.entries {
		pair := e.pair.Load()
		if pair == nil {
			continue
		}
		end := pair.Leaf.NotAfter
		for _, at := range []time.Time{end.Add(-minorBefore), end.Add(-majorBefore), end, pair.Leaf.NotBefore} {
			// A threshold is passed one tick after its moment.
			if d := at.Sub(now) + time.Millisecond; d > 0 && d < wait {
				wait = d
			}
		}
	}
	return wait
}
