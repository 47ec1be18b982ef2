package crl

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl/internal/fetch"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/mmap"
	"github.com/mooringlib/mooring/crl/internal/patch"
	"github.com/mooringlib/mooring/internal/durable"
)

// outcome is what came of asking one source.
type outcome struct {
	key, url           string
	forced             bool
	part               bool   // one list of several from one source, whose outcome follows
	alarm              string // kind of alarm; alarmSource when empty
	etag, lastModified string
	notModified        bool
	fetch, ingest      error // at most one
	staged             *staged

	added, removed int
	changed        bool
}

func (o *outcome) err() error {
	if o.fetch != nil {
		return o.fetch
	}
	return o.ingest
}

// transaction runs change while no other process writes the directory, on what
// is on disk now. Alarms that change are handed to the sink afterwards.
func (m *Manager) transaction(ctx context.Context, change func() error) error {
	if m.cfg.ReadOnly {
		return errReadOnly
	}
	if err := m.durable.MkdirAll(m.cfg.Directory, 0o755); err != nil {
		return err
	}
	unlock, err := lockDirectory(ctx, m.cfg.Directory)
	if err != nil {
		return err
	}
	m.mu.Lock()
	err = m.catchUp(ctx)
	if err == nil {
		err = change()
		m.relearn()
		m.prune()
		m.ages(m.snap.Load(), m.cfg.Now())
		err = errors.Join(err, m.saveState())
	}
	m.mu.Unlock()
	unlock()
	m.tell(ctx)
	return err
}

// catchUp takes over what other processes wrote, and mends what is damaged.
func (m *Manager) catchUp(ctx context.Context) error {
	for _, dir := range []string{listsDir, patchesDir, spoolDir} {
		if err := m.durable.MkdirAll(filepath.Join(m.cfg.Directory, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"", listsDir, patchesDir} {
		if err := m.durable.Sweep(filepath.Join(m.cfg.Directory, dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	st := readState(m.cfg.Directory)
	m.known = st.Sources
	for id, at := range st.Reported {
		if !m.lifted[id] {
			m.reported[id] = at
		}
	}
	on := make(map[string]bool)
	for _, a := range st.Alarms {
		on[a.ID] = true
		if have, ok := m.alarms[a.ID]; !ok || have.Text != a.Text || have.Severity != a.Severity {
			m.alarms[a.ID] = a
			m.pending = append(m.pending, a)
		}
	}
	for _, a := range m.sortedAlarms() {
		if !on[a.ID] && !strings.HasPrefix(a.ID, "crl."+alarmDamage+"/") {
			delete(m.alarms, a.ID)
			a.Cleared = m.cfg.Now().UTC()
			m.pending = append(m.pending, a)
		}
	}
	marks, marksErr := readMarks(m.cfg.Directory)
	m.marks = marks
	openErr := m.reopen()
	if errors.Is(openErr, ErrDamaged) {
		m.raise(alarmDamage, "directory", mooring.SeverityCritical, openErr.Error()+"; it is made anew from the signed lists")
		if err := m.rebuild(ctx); err != nil {
			return errors.Join(openErr, err)
		}
		openErr = nil
	}
	if openErr != nil {
		return openErr
	}
	if marksErr != nil {
		if !errors.Is(marksErr, ErrDamaged) {
			return marksErr
		}
		m.raise(alarmDamage, "directory", mooring.SeverityCritical, marksErr.Error()+"; protection from rollback starts again with the lists in force")
	}
	m.marks.adopt(m.snapshotMetas())
	if marksErr != nil {
		if err := m.writeMarks(); err != nil {
			return err
		}
	}
	m.clear(alarmDamage, "directory")
	return nil
}

func (m *Manager) writeMarks() error {
	m.marks.Seen = max(m.marks.Seen, m.cfg.Now().Unix())
	m.marks.Digest = m.marks.digest()
	data, err := json.Marshal(m.marks)
	if err != nil {
		return err
	}
	return m.writeIfChanged(marksFile, data)
}

// publish writes a new master list and answers from it. The caller holds mu and
// the lock of the directory.
func (m *Manager) publish(inputs []master.Input) error {
	now := m.cfg.Now()
	generation := uint64(max(now.UnixNano(), 1))
	if s := m.snap.Load(); s != nil && s.file != nil {
		generation = max(generation, s.file.Generation+1)
	}
	path := filepath.Join(m.cfg.Directory, masterFile)
	f, err := master.Write(m.durable, path, generation, now, inputs)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	m.stamp = stamp{info.Size(), info.ModTime(), info}
	m.answerFrom(f)
	return nil
}

// conclude brings what was received into force, and tells everybody: alarms,
// events, counters and hooks. Errors of single sources are in their outcomes.
func (m *Manager) conclude(ctx context.Context, outs []*outcome) error {
	err := m.transaction(ctx, func() error {
		err := m.bringIntoForce(outs)
		for _, o := range outs {
			if err != nil && o.staged != nil && o.staged.parsed != nil && o.ingest == nil {
				o.ingest = err
			}
			m.account(o)
		}
		return err
	})
	for _, o := range outs {
		o.staged.drop()
		m.record(ctx, o)
	}
	m.report(ctx)
	return err
}

// bringIntoForce publishes the new lists among the outcomes. Lists that did not
// change cost no write.
func (m *Manager) bringIntoForce(outs []*outcome) error {
	s := m.snap.Load()
	fresh := make(map[string]*outcome)
	for _, o := range outs {
		if o.err() != nil || o.staged == nil {
			continue
		}
		// Another process may have been faster.
		if o.ingest = m.marks.admits(&o.staged.meta); o.ingest != nil || m.inForce(o.staged.meta.ID) || o.staged.parsed == nil {
			continue
		}
		line := o.staged.meta.Line
		if have := fresh[line]; have == nil || newer(&o.staged.meta, &have.staged.meta) {
			fresh[line] = o
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var inputs []master.Input
	now := m.cfg.Now()
	for i := range s.lists {
		l := &s.lists[i]
		if fresh[l.meta.Line] == nil && !m.forgotten(l, now) {
			inputs = append(inputs, master.Input{Meta: *l.meta, From: s.file, Position: i})
		}
	}
	for _, o := range fresh {
		if err := m.keep(s, o); err != nil {
			return err
		}
		m.marks.raise(&o.staged.meta)
		inputs = append(inputs, master.Input{Meta: o.staged.meta, Entries: o.staged.parsed})
	}
	// The marks come first: a crash in between leaves a mark above the list in
	// force, which the same list satisfies when it is fetched again.
	if err := m.writeMarks(); err != nil {
		return err
	}
	if err := m.publish(inputs); err != nil {
		return err
	}
	for _, o := range fresh {
		o.changed = true
	}
	return m.sweep()
}

// forgotten says whether a list is long past its end and its address, once a
// source, is none any more; or can't answer since its signer is not configured
// any more. A list that a conductor shared, or that was imported, stays: who
// withholds its successor must not un-revoke by that.
func (m *Manager) forgotten(l *listView, now time.Time) bool {
	if l.signer == nil {
		return true
	}
	u, err := url.Parse(l.meta.Source)
	if err != nil || u.Scheme == "" || strings.Contains(u.Path, "/v1/lists/") || strings.Contains(u.Path, "/v1/patches/") {
		return false
	}
	for key, src := range m.sources {
		if key == l.meta.Source {
			return false
		}
		for _, u := range src.urls {
			if u == l.meta.Source {
				return false
			}
		}
	}
	return now.After(l.next.Add(forgetAfter))
}

// keep stores the signed list, works out what changed, and makes the patch that
// leads to it.
func (m *Manager) keep(s *snapshot, o *outcome) error {
	meta := &o.staged.meta
	path := filepath.Join(m.cfg.Directory, listsDir, meta.ID+".crl")
	if err := m.durable.Rename(o.staged.path, path); err != nil {
		return err
	}
	o.staged.path = ""
	before := s.held(meta.Line)
	var file *master.File
	position := 0
	if before != nil {
		file, position = s.file, before.position
	}
	var err error
	if o.added, o.removed, err = master.Diff(file, position, o.staged.parsed); err != nil {
		return err
	}
	if before == nil {
		return nil
	}
	if n := before.meta.Entries; n >= massRemovalMin && o.removed*100 > n*massRemoval && meta.Base == "" {
		m.raise(alarmRemoval, meta.Line, mooring.SeverityMajor,
			fmt.Sprintf("list of %s from %q: %d of %d entries went at once", oneLine(meta.Issuer), fetch.Redact(o.url), o.removed, n))
	} else {
		m.clear(alarmRemoval, meta.Line)
	}
	if err := m.makePatch(before.meta.ID, meta.ID); err != nil {
		// Routers get the whole list instead.
		if errors.Is(err, durable.ErrStopped) {
			return err
		}
		m.cfg.Logger.Warn("no patch between two lists", "error", err)
	}
	return nil
}

func (m *Manager) makePatch(before, after string) error {
	var maps [2]*mmap.Mapping
	for i, id := range []string{before, after} {
		f, err := os.Open(filepath.Join(m.cfg.Directory, listsDir, id+".crl"))
		if err != nil {
			return err
		}
		maps[i], err = mmap.Open(f)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	var id [32]byte
	if _, err := hex.Decode(id[:], []byte(after)); err != nil {
		return err
	}
	f, err := m.durable.Create(filepath.Join(m.cfg.Directory, patchesDir, before+"-"+after+".patch"), 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	err = patch.Make(f, maps[0].Bytes, maps[1].Bytes, id)
	// The bytes go with the maps, which nothing else holds.
	runtime.KeepAlive(maps[0])
	runtime.KeepAlive(maps[1])
	if err != nil {
		return err
	}
	return f.Commit()
}

// sweep removes signed lists that are not in force any more, and old patches.
// What can't be removed now is removed the next time.
func (m *Manager) sweep() error {
	keep := make(map[string]bool)
	for _, meta := range m.snapshotMetas() {
		keep[meta.ID+".crl"] = true
	}
	for _, dir := range []string{listsDir, patchesDir, spoolDir} {
		entries, err := os.ReadDir(filepath.Join(m.cfg.Directory, dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue
			}
			age := m.cfg.Now().Sub(info.ModTime())
			if dir == listsDir && !keep[e.Name()] || dir == patchesDir && age > patchAge || dir == spoolDir && age > 24*time.Hour {
				if err := m.durable.Remove(filepath.Join(m.cfg.Directory, dir, e.Name())); errors.Is(err, durable.ErrStopped) {
					return err
				}
			}
		}
	}
	return nil
}
