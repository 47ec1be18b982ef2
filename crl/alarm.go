package crl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mooringlib/mooring"
)

// Kinds of alarm. The ID of an alarm is "crl.", the kind, "/" and the subject.
const (
	alarmSource  = "source"  // an address does not bring a list that counts
	alarmSync    = "sync"    // a conductor does not share lists that count
	alarmImport  = "import"  // a list that the caller brought does not count
	alarmStale   = "stale"   // a list in force is past its end
	alarmRemoval = "removal" // most entries of a list went at once
	alarmDamage  = "damage"  // a file of the directory was damaged
	alarmClock   = "clock"   // the clock went back
)

// alarms are the active ones, by ID. It is guarded by Manager.mu.
type alarms map[string]mooring.Alarm

// raise sets an alarm. The caller holds mu and hands what it returns to the
// sink after letting go of it.
func (m *Manager) raise(kind, subject string, severity mooring.Severity, text string) {
	if len(text) > maxAlarmText {
		text = strings.ToValidUTF8(text[:maxAlarmText], "") + "..."
	}
	id := "crl." + kind + "/" + subject
	a := mooring.Alarm{ID: id, Severity: severity, Subject: subject, Text: text, Raised: m.cfg.Now().UTC()}
	if old, ok := m.alarms[id]; ok {
		if old.Severity == a.Severity && old.Text == a.Text {
			return
		}
		a.Raised = old.Raised
	}
	m.alarms[id] = a
	m.pending = append(m.pending, a)
	m.dirty = true
}

// clear ends an alarm, if there is one. The caller holds mu.
func (m *Manager) clear(kind, subject string) {
	id := "crl." + kind + "/" + subject
	a, ok := m.alarms[id]
	if !ok {
		return
	}
	delete(m.alarms, id)
	a.Cleared = m.cfg.Now().UTC()
	m.pending = append(m.pending, a)
	m.dirty = true
}

// tell hands pending alarms to the sink, in order. It must be called without mu.
func (m *Manager) tell(ctx context.Context) {
	m.telling.Lock()
	defer m.telling.Unlock()
	m.mu.Lock()
	pending := m.pending
	m.pending = nil
	m.mu.Unlock()
	if m.cfg.Alarms == nil {
		return
	}
	for _, a := range pending {
		m.cfg.Alarms.SetAlarm(ctx, a)
	}
}

// Alarms returns the active alarms, sorted by ID. They survive a restart.
func (m *Manager) Alarms() []mooring.Alarm {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sortedAlarms()
}

func (m *Manager) sortedAlarms() []mooring.Alarm {
	out := make([]mooring.Alarm, 0, len(m.alarms))
	for _, a := range m.alarms {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b mooring.Alarm) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// ages raises and clears the alarms that come with time alone. The caller holds
// mu.
func (m *Manager) ages(s *snapshot, now time.Time) {
	stale := make(map[string]bool)
	behind := ""
	for i := range s.lists {
		l := &s.lists[i]
		if l.signer == nil {
			continue
		}
		subject := l.meta.Line
		if now.Before(l.this.Add(-clockSkew)) {
			behind = fmt.Sprintf("the clock says %s, but the list of %s was made at %s", now.UTC().Format(time.RFC3339), oneLine(l.meta.Issuer), l.this.UTC().Format(time.RFC3339))
			continue
		}
		if ok, why := l.fresh(now); !ok {
			stale[subject] = true
			severity := mooring.SeverityCritical
			if l.base != nil {
				severity = mooring.SeverityMajor // Its base still answers.
			}
			m.raise(alarmStale, subject, severity,
				fmt.Sprintf("list of %s from %q: %s; it stays in force as the last known good one", oneLine(l.meta.Issuer), l.meta.Source, why))
		}
	}
	for _, a := range m.sortedAlarms() {
		if subject, ok := strings.CutPrefix(a.ID, "crl."+alarmStale+"/"); ok && !stale[subject] {
			m.clear(alarmStale, subject)
		}
	}
	if seen := time.Unix(m.marks.Seen, 0); behind == "" && now.Before(seen.Add(-clockSkew)) {
		behind = fmt.Sprintf("the clock says %s, but was at %s before", now.UTC().Format(time.RFC3339), seen.UTC().Format(time.RFC3339))
	}
	if behind != "" {
		m.raise(alarmClock, "clock", mooring.SeverityCritical, behind)
	} else {
		m.clear(alarmClock, "clock")
	}
}
