package crl

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl/internal/fetch"
	"github.com/mooringlib/mooring/crl/internal/master"
)

// account updates counters, alarms and what is remembered of a source. The
// caller holds mu.
func (m *Manager) account(o *outcome) {
	switch {
	case o.fetch != nil:
		m.counters.FetchFailure++
	case o.ingest != nil:
		m.counters.FetchSuccess++
		m.counters.IngestionFailure++
	default:
		m.counters.FetchSuccess++
		m.counters.IngestionSuccess++
	}
	if o.part {
		return
	}
	kind := o.alarm
	if kind == "" {
		kind = alarmSource
	}
	k := m.known[o.key]
	old := k
	if err := o.err(); err != nil {
		k.LastError = err.Error()
		if k.Failed.IsZero() {
			k.Failed = m.cfg.Now().UTC()
		}
		severity, note := mooring.SeverityMajor, ""
		if errors.Is(err, ErrRollback) || k.Line == "" {
			severity = mooring.SeverityCritical
		}
		if l := m.snap.Load().held(k.Line); l != nil {
			note = "; the list with number " + orNone(l.meta.Number) + " stays in force"
			if ok, _ := l.fresh(m.cfg.Now()); !ok {
				severity = mooring.SeverityCritical
			}
		}
		m.raise(kind, o.key, severity, fmt.Sprintf("list from %q can't be had: %.300s%s", fetch.Redact(o.key), err, note))
	} else {
		k.LastError, k.Failed = "", time.Time{}
		if !o.notModified {
			k.ETag, k.LastModified = o.etag, o.lastModified
		}
		if o.staged != nil {
			k.List, k.Line = o.staged.meta.ID, o.staged.meta.Line
		}
		m.clear(kind, o.key)
	}
	if k != old && kind == alarmSource {
		m.known[o.key] = k
		m.dirty = true
	}
}

// opensslTime is how the audit record writes the dates of a list.
const opensslTime = "Jan _2 15:04:05 2006 GMT"

type updateDetail struct {
	Forced        bool   `json:"forced"`
	LastUpdated   string `json:"last_updated"`
	NextUpdate    string `json:"next_update"`
	URL           string `json:"crl_url"`
	Size          int64  `json:"size"`
	TotalEntries  int    `json:"total_entries"`
	AddedEntries  int    `json:"added_entries"`
	RemovedEntry  int    `json:"removed_entries"`
	Success       bool   `json:"success"`
	Authority     string `json:"certificate_authority"`
	FailureReason string `json:"error,omitempty"`
}

// record writes the audit event of an outcome.
func (m *Manager) record(ctx context.Context, o *outcome) {
	err := o.err()
	d := updateDetail{Forced: o.forced, URL: fetch.Redact(o.url), Success: err == nil, AddedEntries: o.added, RemovedEntry: o.removed}
	var meta *master.Meta
	if o.staged != nil {
		meta = &o.staged.meta
	} else {
		m.mu.Lock()
		line := m.known[o.key].Line
		m.mu.Unlock()
		if l := m.snap.Load().held(line); l != nil {
			meta = l.meta
		}
	}
	description := "Updated CRL from: " + d.URL
	if meta != nil {
		d.LastUpdated = time.Unix(meta.ThisUpdate, 0).UTC().Format(opensslTime)
		if meta.NextUpdate != 0 {
			d.NextUpdate = time.Unix(meta.NextUpdate, 0).UTC().Format(opensslTime)
		}
		d.Size, d.TotalEntries, d.Authority = meta.Size, meta.Entries, oneLine(meta.Issuer)
		description = "Updated CRL for issuer: " + commonName(meta.Issuer)
	}
	if err != nil {
		d.FailureReason = fmt.Sprintf("%.300s", err)
		description = "Could not update CRL from: " + d.URL
		m.cfg.Logger.Warn("revocation list was not updated", "url", d.URL, "error", err)
	} else {
		m.cfg.Logger.Info("revocation list is up to date", "url", d.URL, "changed", o.changed, "entries", d.TotalEntries)
	}
	if m.cfg.Events == nil {
		return
	}
	detail, err := json.Marshal(d)
	if err != nil {
		return
	}
	m.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type: "system.crl_update", Time: m.cfg.Now().UTC(), Node: m.cfg.Node,
		Description: description, Detail: detail, Permitted: true,
	})
}

// report calls the hook for certificates in use that are newly known as
// revoked, and forgets those that are not any more.
func (m *Manager) report(ctx context.Context) {
	type revoked struct {
		cert *x509.Certificate
		r    Result
	}
	var news []revoked
	m.mu.Lock()
	for id, cert := range m.inUse {
		r := m.check(cert, nil, nil)
		_, before := m.reported[id]
		switch now := r.Status == StatusRevoked || r.Status == StatusOnHold; {
		case now && !before:
			m.reported[id] = m.cfg.Now().UTC()
			delete(m.lifted, id)
			m.dirty = true
			news = append(news, revoked{cert, r})
		case before && (r.Status == StatusGood || r.Status == StatusStale):
			delete(m.reported, id)
			m.lifted[id] = true
			m.dirty = true
		}
	}
	dirty := m.dirty
	m.mu.Unlock()
	for _, n := range news {
		m.cfg.Logger.Warn("certificate in use is revoked", "subject", n.cert.Subject.String(), "reason", n.r.Reason)
		if m.cfg.OnRevoked != nil {
			m.cfg.OnRevoked(ctx, n.cert, n.r)
		}
	}
	if dirty {
		// The hook ran first: after a crash here it runs again, rather than never.
		if err := m.transaction(ctx, func() error {
			m.dirty = true
			return nil
		}); err != nil {
			m.cfg.Logger.Warn("state was not saved", "error", err)
		}
	}
}
