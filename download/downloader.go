package download

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/download/repo"
)

// Downloader fetches images. It is safe for concurrent use; each version has one
// download at a time, over all processes that share the state directory.
type Downloader struct {
	cfg   Config
	store *Store
}

// New returns a downloader, or an error that names every field that is wrong. It
// does no I/O.
func New(cfg Config) (*Downloader, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	return &Downloader{cfg: cfg, store: &Store{dir: cfg.StateDir, writer: cfg.writer}}, nil
}

// Store returns the downloader's state directory.
func (d *Downloader) Store() *Store { return d.store }

// Request says what to fetch.
type Request struct {
	// Version is the version that is wanted.
	Version string
	// Out is the image's final name. Beside it stand, while the download
	// lasts, Out.part and its journal, and for good Out.mooring.
	Out string
	// Sequenced is empty for a download that does not care for the peer's, or
	// this node's role in a sequenced pair.
	Sequenced Role
}

// Download fetches an image and returns its last status. It blocks until the
// image has its name, the download has failed (a *[FailedError]), the disk is
// full (a *[SpaceError]; the download is paused), or ctx ends; the next call
// goes on where this one stopped. While it is paused by an operator it waits.
func (d *Downloader) Download(ctx context.Context, req Request) (Status, error) {
	if err := req.check(); err != nil {
		return Status{}, err
	}
	out, err := filepath.Abs(req.Out)
	if err != nil {
		return Status{}, fmt.Errorf("download: %w", err)
	}
	req.Out = out
	lock, err := d.store.own(req.Version)
	if err != nil {
		return Status{}, err
	}
	defer lock.Close()
	j := newJob(d, req)
	j.event(ctx, "software.download_start", "download began or goes on", nil)
	err = j.run(ctx)
	st := j.end(ctx, err)
	return st, err
}

func (r Request) check() error {
	var errs []error
	errs = append(errs, repo.CheckVersion(r.Version))
	if r.Out == "" {
		errs = append(errs, errors.New("no output file is given"))
	}
	switch r.Sequenced {
	case "", RoleFirst, RoleSecond:
	default:
		errs = append(errs, fmt.Errorf("role %.40q: want first or second", string(r.Sequenced)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("download: %w", err)
	}
	return nil
}

// event writes to the audit record.
func (j *job) event(ctx context.Context, kind, text string, failure error) {
	sink := j.d.cfg.Events
	if sink == nil {
		return
	}
	detail := map[string]any{"version": j.req.Version, "out": j.req.Out}
	if failure != nil {
		detail["error"] = failure.Error()
	}
	data, err := json.Marshal(detail)
	if err != nil {
		data = nil
	}
	sink.RecordEvent(ctx, mooring.Event{
		Type: kind, Time: j.d.cfg.Now(), Node: j.d.cfg.Node, Description: text, Detail: data, Permitted: failure == nil,
	})
}

// alarm raises or clears the alarm of this download.
func (j *job) alarm(ctx context.Context, failure error) {
	sink := j.d.cfg.Alarms
	if sink == nil {
		return
	}
	now := j.d.cfg.Now()
	a := mooring.Alarm{ID: "download.failed/" + j.req.Version, Severity: mooring.SeverityMajor, Subject: j.req.Version, Raised: now}
	if failure != nil {
		a.Text = failure.Error()
	} else {
		a.Text, a.Cleared = "the image arrived", now
	}
	sink.SetAlarm(ctx, a)
}

// rateMeter averages over the last seconds. Bytes that were there before are
// never part of it.
type rateMeter struct {
	at   [16]time.Time
	n    [16]int64
	next int
}

func (m *rateMeter) add(now time.Time, total int64) {
	last := (m.next + len(m.at) - 1) % len(m.at)
	if now.Sub(m.at[last]) < 300*time.Millisecond {
		return
	}
	m.at[m.next], m.n[m.next] = now, total
	m.next = (m.next + 1) % len(m.at)
}

// bits returns bits per second.
func (m *rateMeter) bits(now time.Time, total int64) int64 {
	for i := range m.at {
		k := (m.next + i) % len(m.at)
		if m.at[k].IsZero() {
			continue
		}
		if span := now.Sub(m.at[k]).Seconds(); span > 0.2 {
			return int64(float64(total-m.n[k]) * 8 / span)
		}
	}
	return 0
}
