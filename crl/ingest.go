package crl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/crl/internal/trust"
)

// staged is a list that was verified and read, and waits to come into force.
type staged struct {
	meta   master.Meta
	parsed *list.Parsed // nil when the list is in force already
	path   string       // of the signed list, synced
}

func (s *staged) drop() {
	if s != nil && s.path != "" {
		_ = os.Remove(s.path)
	}
}

// receive spools, verifies and reads a list. Nothing of it is in force yet.
func (m *Manager) receive(ctx context.Context, body io.Reader, source string) (_ *staged, err error) {
	dir := filepath.Join(m.cfg.Directory, spoolDir)
	if err := m.durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "list-*")
	if err != nil {
		return nil, err
	}
	out := &staged{path: f.Name()}
	defer func() {
		_ = f.Close()
		if err != nil {
			out.drop()
		}
	}()
	sp, err := list.Spool(ctx, f, body, m.limits())
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, err
	}
	v, meta, err := m.verify(sp)
	if err != nil {
		return nil, err
	}
	meta.Source, meta.Received = source, m.cfg.Now().Unix()
	out.meta = *meta
	m.mu.Lock()
	err = m.marks.admits(meta)
	held := m.inForce(meta.ID)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if held {
		if err := m.heal(f, meta.ID); err != nil {
			return nil, err
		}
		out.drop()
		out.path = ""
		return out, nil
	}
	m.reading.Lock()
	out.parsed, err = v.Entries(ctx)
	m.reading.Unlock()
	if err != nil {
		return nil, err
	}
	out.meta.Issuers = out.parsed.Issuers
	if out.parsed.Duplicates > 0 {
		out.meta.Warnings = append(out.meta.Warnings, fmt.Sprintf("%d serial numbers are listed twice", out.parsed.Duplicates))
	}
	return out, f.Sync()
}

// heal puts a list that came again in the place of the stored one when that is
// damaged or gone: routers get it from there, and a damaged master list is made
// from it. Mostly there is nothing to do, and nothing is written.
func (m *Manager) heal(f *os.File, id string) error {
	path := filepath.Join(m.cfg.Directory, listsDir, id+".crl")
	same, err := sameContent(f, path)
	if same || err != nil {
		return err
	}
	m.cfg.Logger.Warn("stored list was damaged and is replaced", "id", id)
	if err := f.Sync(); err != nil {
		return err
	}
	return m.durable.Rename(f.Name(), path)
}

// sameContent compares a file with the one at path, which may be missing.
func sameContent(f *os.File, path string) (bool, error) {
	g, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer g.Close()
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if gi, err := g.Stat(); err != nil || fi.Size() != gi.Size() {
		return false, err
	}
	var a, b [32 << 10]byte
	for off := int64(0); off < fi.Size(); {
		n, err := f.ReadAt(a[:], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		// What can't be read counts as different.
		if k, _ := g.ReadAt(b[:n], off); k != n || !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		off += int64(n)
	}
	return true, nil
}

// inForce reports whether a list with this content answers questions now. The
// caller holds mu.
func (m *Manager) inForce(id string) bool {
	s := m.snap.Load()
	if s == nil || s.file == nil || id == "" {
		return false
	}
	i := s.file.Position(id)
	return i >= 0 && s.lists[i].signer != nil
}

// verify finds who signed a list, checks the signature and the dates.
func (m *Manager) verify(sp *list.Spooled) (*list.Verified, *master.Meta, error) {
	issuer, err := name.KeyOf(sp.Issuer)
	if err != nil {
		return nil, nil, err
	}
	now := m.cfg.Now()
	signers, why := m.pool.Signers(issuer, sp.KeyID, now)
	if len(signers) == 0 {
		return nil, nil, fmt.Errorf("list of %s: %s", oneLine(sp.Issuer), why)
	}
	var v *list.Verified
	var signer *trust.Node
	for _, n := range signers {
		if v, err = sp.Verify(n.Cert.PublicKey); err == nil {
			signer = n
			break
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list of %s: %w", oneLine(sp.Issuer), err)
	}
	if v.ThisUpdate.After(now.Add(clockSkew)) {
		return nil, nil, fmt.Errorf("list of %s was made in the future, at %s: one of the clocks is wrong", oneLine(sp.Issuer), v.ThisUpdate.UTC().Format(time.RFC3339))
	}
	if !v.NextUpdate.IsZero() && v.NextUpdate.Before(v.ThisUpdate) {
		return nil, nil, fmt.Errorf("list of %s ends before it begins", oneLine(sp.Issuer))
	}
	if v.Scope.OnlyAttribute {
		return nil, nil, fmt.Errorf("list of %s is for attribute certificates only", oneLine(sp.Issuer))
	}
	meta := metaOf(v, signer, issuer)
	return v, &meta, nil
}

// Import takes a list, in DER or PEM, that the caller brings itself. It is
// checked like a fetched one. source names it in answers.
func (m *Manager) Import(ctx context.Context, r io.Reader, source string) error {
	s, err := m.receive(ctx, r, source)
	o := &outcome{key: source, url: source, forced: true, ingest: err, staged: s, alarm: alarmImport}
	return errors.Join(err, m.conclude(ctx, []*outcome{o}))
}

// rebuild reads the signed lists of the directory again and makes the master
// list from them. The caller holds mu and the lock of the directory.
func (m *Manager) rebuild(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(m.cfg.Directory, listsDir, "*.crl"))
	if err != nil {
		return err
	}
	best := make(map[string]master.Input)
	for _, path := range paths {
		in, err := m.reread(ctx, path)
		if err != nil {
			m.cfg.Logger.Warn("signed list can't be used again", "path", path, "error", err)
			continue
		}
		if have, ok := best[in.Meta.Line]; !ok || newer(&in.Meta, &have.Meta) {
			best[in.Meta.Line] = in
		}
	}
	inputs := make([]master.Input, 0, len(best))
	for _, in := range best {
		inputs = append(inputs, in)
	}
	return m.publish(inputs)
}

// newer reports whether a follows b in one line of lists.
func newer(a, b *master.Meta) bool {
	x, y := number(a.Number), number(b.Number)
	if x != nil && y != nil && x.Cmp(y) != 0 {
		return x.Cmp(y) > 0
	}
	return a.ThisUpdate > b.ThisUpdate
}

func (m *Manager) reread(ctx context.Context, path string) (master.Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return master.Input{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return master.Input{}, err
	}
	sp, err := list.Reread(ctx, f, info.Size(), m.limits())
	if err != nil {
		return master.Input{}, err
	}
	v, meta, err := m.verify(sp)
	if err != nil {
		return master.Input{}, err
	}
	parsed, err := v.Entries(ctx)
	if err != nil {
		return master.Input{}, err
	}
	meta.Issuers = parsed.Issuers
	meta.Received = info.ModTime().Unix()
	// Where it came from is not in the signed list.
	meta.Source = "directory"
	for url, k := range m.known {
		if k.List == meta.ID {
			meta.Source = url
		}
	}
	return master.Input{Meta: *meta, Entries: parsed}, nil
}
