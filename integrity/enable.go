package integrity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/fsmeta"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

// Enable protects the system, once for its life: it makes and wraps the key,
// makes and encrypts the directories, and commits the manifest. A directory that
// holds files is refused. When it returns nil, all directories are open, and the
// key is not capped yet.
//
// Enable can be interrupted at any point and called again. It returns
// [ErrAlreadyEnabled] on a system that is enabled, and a [*CheckError] when the
// system does not meet the requirements; nothing was changed then.
func (h *Handler) Enable(ctx context.Context) error {
	err := h.exclusive(ctx, func() error { return h.enable(ctx) })
	h.event(ctx, "system.enable_integrity", "enable configuration integrity", err)
	return err
}

func (h *Handler) enable(ctx context.Context) error {
	if err := h.slots.Writer.Sweep(h.cfg.StateDir); err != nil {
		return fmt.Errorf("integrity: state directory: %w", err)
	}
	found, err := h.slots.Load()
	if err != nil {
		return cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
	}
	if len(found) > 0 && found[0].Complete {
		return ErrAlreadyEnabled
	}
	if len(found) == 0 {
		if a, ok := h.cfg.Wrapper.(Anchor); ok {
			if _, committed, err := a.Committed(ctx); err != nil {
				return err
			} else if committed {
				return cause.At(cause.StateMissing, h.cfg.StateDir, nil)
			}
		}
	}
	var own map[string]bool
	if len(found) > 0 {
		own = ownDirectories(found[0].Record)
	}
	if findings := h.check(ctx, own); failed(findings) {
		return &CheckError{Findings: findings}
	}
	key, rec, err := h.prepared(ctx, found)
	if err != nil {
		return err
	}
	defer key.Destroy()
	m, err := record.ParseManifest(rec.Manifest)
	if err != nil {
		return cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
	}
	if err := h.encrypt(m, key.Bytes()); err != nil {
		return errors.Join(err, h.closeAgain(m))
	}
	if a, ok := h.cfg.Wrapper.(Anchor); ok {
		if err := a.Commit(ctx, rec.Binding()); err != nil {
			return errors.Join(fmt.Errorf("integrity: commit manifest: %w", err), h.closeAgain(m))
		}
	}
	complete := *rec.Record
	complete.Complete = true
	if _, err := h.slots.Store(&rec, complete); err != nil {
		return fmt.Errorf("integrity: %w", err)
	}
	h.manifest = m
	if err := h.slots.Drop(rec); err != nil {
		return fmt.Errorf("integrity: %w", err)
	}
	h.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "configuration integrity is enabled", slog.Int("directories", len(m.Entries)))
	return nil
}

// ownDirectories are those that an interrupted Enable has encrypted already.
func ownDirectories(r *record.Record) map[string]bool {
	own := make(map[string]bool)
	if m, err := record.ParseManifest(r.Manifest); err == nil {
		for _, e := range m.Entries {
			own[e.Path+"\x00"+e.Policy.Identifier.String()] = true
		}
	}
	return own
}

// prepared returns the key and its record, which is on disk, not complete, and
// was opened from there.
func (h *Handler) prepared(ctx context.Context, found []record.Found) (*secmem.Buffer, record.Found, error) {
	for _, rec := range found {
		binding := rec.Binding()
		key, err := secmem.New(KeySize)
		if err != nil {
			return nil, rec, cause.New(cause.Kernel, err)
		}
		_, err = h.cfg.Wrapper.Unwrap(ctx, rec.Wrapped, binding[:], key.Bytes())
		if err == nil && h.sameDirectories(rec.Record) {
			return key, rec, nil
		}
		key.Destroy()
		if err != nil && (transient(err) || h.anyOwn(rec.Record)) {
			return nil, rec, fmt.Errorf("integrity: unwrap the key of an interrupted enabling: %w", err)
		}
		if err == nil && h.anyOwn(rec.Record) {
			return nil, rec, errors.New("integrity: enabling was interrupted with other directories or another mode: enable with those first")
		}
		// Nothing was encrypted with it, so a new key may take its place.
		if err := h.slots.Drop(rec); err != nil {
			return nil, rec, fmt.Errorf("integrity: %w", err)
		}
	}
	return h.begin(ctx)
}

func (h *Handler) sameDirectories(r *record.Record) bool {
	m, err := record.ParseManifest(r.Manifest)
	if err != nil || m.Mode != h.mode || len(m.Entries) != len(h.cfg.Directories) {
		return false
	}
	return h.verifyCovered(m) == nil
}

// anyOwn reports whether a directory was encrypted for this record.
func (h *Handler) anyOwn(r *record.Record) bool {
	own := ownDirectories(r)
	for _, dir := range h.cfg.Directories {
		if p, err := fscrypt.GetPolicy(h.cfg.Kernel, dir); err == nil && own[dir+"\x00"+p.Identifier.String()] {
			return true
		}
	}
	return false
}

// begin makes the key, wraps it, stores the record, and opens it again from
// what is on the disk.
func (h *Handler) begin(ctx context.Context) (*secmem.Buffer, record.Found, error) {
	key, err := h.generate(ctx)
	if err != nil {
		return nil, record.Found{}, err
	}
	rec, err := h.firstRecord(ctx, key)
	if err == nil {
		err = h.trial(ctx, h.cfg.Wrapper, rec, key)
	}
	if err != nil {
		key.Destroy()
		return nil, rec, err
	}
	return key, rec, nil
}

func (h *Handler) firstRecord(ctx context.Context, key *secmem.Buffer) (record.Found, error) {
	m := &record.Manifest{Mode: h.mode}
	if _, err := rand.Read(m.Salt[:]); err != nil {
		return record.Found{}, fmt.Errorf("integrity: %w", err)
	}
	id, err := h.identify(m, key.Bytes())
	if err != nil {
		return record.Found{}, err
	}
	for _, dir := range h.cfg.Directories {
		m.Entries = append(m.Entries, record.Entry{Path: dir, Policy: fscrypt.NewPolicy(id)})
	}
	var rec record.Record
	if rec.Manifest, err = m.Marshal(); err != nil {
		return record.Found{}, fmt.Errorf("integrity: %w", err)
	}
	binding := rec.Binding()
	if rec.Wrapped, err = h.cfg.Wrapper.Wrap(ctx, key.Bytes(), binding[:]); err != nil {
		return record.Found{}, fmt.Errorf("integrity: wrap key: %w", err)
	}
	stored, err := h.slots.Store(nil, rec)
	if err != nil {
		return record.Found{}, fmt.Errorf("integrity: %w", err)
	}
	return stored, nil
}

func (h *Handler) identify(m *record.Manifest, raw []byte) (fscrypt.Identifier, error) {
	if m.Mode == record.Direct {
		return fscrypt.Identify(raw)
	}
	key, err := fsmeta.Derive(raw, m.Salt[:])
	if err != nil {
		return fscrypt.Identifier{}, cause.New(cause.Kernel, err)
	}
	defer key.Destroy()
	return fscrypt.Identify(key.Bytes())
}

// trial proves that what is on the disk opens, before anything depends on it.
func (h *Handler) trial(ctx context.Context, w KeyWrapper, rec record.Found, want *secmem.Buffer) error {
	got, err := secmem.New(KeySize)
	if err != nil {
		return cause.New(cause.Kernel, err)
	}
	defer got.Destroy()
	binding := rec.Binding()
	if _, err := w.Unwrap(ctx, rec.Wrapped, binding[:], got.Bytes()); err != nil {
		return fmt.Errorf("integrity: trial unwrap: %w", err)
	}
	if subtle.ConstantTimeCompare(got.Bytes(), want.Bytes()) != 1 {
		return cause.New(cause.WrongKey, errors.New("integrity: trial unwrap gave another key"))
	}
	return nil
}

// encrypt makes the directories and opens them. All of it can be done again.
func (h *Handler) encrypt(m *record.Manifest, raw []byte) error {
	for _, e := range m.Entries {
		if err := h.encryptOne(m, raw, e); err != nil {
			return err
		}
	}
	if err := h.addKeys(m, raw); err != nil {
		return err
	}
	if err := h.verifyPolicies(m); err != nil {
		return err
	}
	return h.verifyReadable(m)
}

func (h *Handler) encryptOne(m *record.Manifest, raw []byte, e record.Entry) error {
	if err := h.cfg.writer.MkdirAll(e.Path, 0o700); err != nil {
		return cause.At(cause.DirectoryMissing, e.Path, err)
	}
	if m.Mode == record.Compat {
		root, err := h.mount(e.Path)
		if err != nil {
			return cause.At(cause.DirectoryMissing, e.Path, err)
		}
		if err := (fsmeta.Store{Mount: root, Writer: h.cfg.writer}).Ensure(raw, m.Salt[:], "integrity"); err != nil {
			return fmt.Errorf("integrity: metadata of the fscrypt tool on %q: %w", root, err)
		}
	}
	err := fscrypt.SetPolicy(h.cfg.Kernel, e.Path, e.Policy)
	switch {
	case errors.Is(err, fscrypt.ErrNotEmpty):
		return cause.At(cause.DirectoryPlain, e.Path, err)
	case errors.Is(err, fscrypt.ErrOtherPolicy):
		return cause.At(cause.DirectoryWrongKey, e.Path, err)
	case err != nil:
		return kernelError(e.Path, err)
	}
	if err := h.cfg.writer.SyncDir(filepath.Dir(e.Path)); err != nil {
		return cause.At(cause.Kernel, e.Path, err)
	}
	return nil
}

// Rewrap wraps the key anew, for a wrapper with another policy or other
// hardware: it opens the record with the present wrapper, writes the new form to
// the other slot, opens that from the disk with next, and only then drops the old
// one. An interruption at any point leaves a record that opens. Afterwards the
// product configures next for good; this Handler goes on with the old wrapper.
func (h *Handler) Rewrap(ctx context.Context, next KeyWrapper) error {
	err := h.exclusive(ctx, func() error { return h.rewrap(ctx, next) })
	h.event(ctx, "system.rewrap_integrity_key", "wrap the configuration integrity key anew", err)
	return err
}

func (h *Handler) rewrap(ctx context.Context, next KeyWrapper) error {
	if next == nil {
		return errors.New("integrity: wrap key anew: no wrapper")
	}
	if err := h.slots.Writer.Sweep(h.cfg.StateDir); err != nil {
		return fmt.Errorf("integrity: state directory: %w", err)
	}
	found, err := h.load(ctx)
	if err != nil {
		return err
	}
	key, rec, vouched, err := h.unwrap(ctx, found)
	if err != nil {
		return err
	}
	defer key.Destroy()
	if _, err := h.vetted(rec, vouched); err != nil {
		return err
	}
	// Only one slot is free to be written: the one that does not hold the
	// record that was just opened.
	for _, f := range found {
		if f.Generation != rec.Generation {
			if err := h.slots.Drop(f); err != nil {
				return fmt.Errorf("integrity: %w", err)
			}
		}
	}
	binding := rec.Binding()
	anew := record.Record{Complete: true, Manifest: rec.Manifest}
	if anew.Wrapped, err = next.Wrap(ctx, key.Bytes(), binding[:]); err != nil {
		return fmt.Errorf("integrity: wrap key anew: %w", err)
	}
	stored, err := h.slots.Store(&rec, anew)
	if err != nil {
		return fmt.Errorf("integrity: %w", err)
	}
	if err := h.accept(ctx, next, stored, key); err != nil {
		return errors.Join(err, h.slots.Drop(stored))
	}
	if err := h.slots.Drop(rec); err != nil {
		return fmt.Errorf("integrity: %w", err)
	}
	return nil
}

// accept proves that next opens the record that was stored for it, and vouches
// for it.
func (h *Handler) accept(ctx context.Context, next KeyWrapper, rec record.Found, key *secmem.Buffer) error {
	if a, ok := next.(Anchor); ok {
		if err := a.Commit(ctx, rec.Binding()); err != nil {
			return fmt.Errorf("integrity: commit manifest: %w", err)
		}
	}
	return h.trial(ctx, next, rec, key)
}

// emptyOrMissing reports whether a directory can be encrypted from its creation.
func emptyOrMissing(dir string) (bool, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) == 0, nil
}
