package integrity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

// Unlock opens every protected directory: it takes the key from the wrapper,
// verifies the directories, hands the key to the kernel, proves that everything
// is readable, and caps the key. Every error carries a code of package cause, and
// nothing is left open by a call that fails. What may pass by itself is tried
// three times. Directories that are open already are verified only.
//
// Unlock tells nobody: see [Handler.Run] and [Handler.RunOnce].
func (h *Handler) Unlock(ctx context.Context) error {
	wait := transientWait
	for try := 1; ; try++ {
		err := h.exclusive(ctx, func() error { return h.unlock(ctx) })
		if err == nil || try == transientTries || !transient(err) {
			return err
		}
		h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "unlock failed, trying again", slog.Any("error", err))
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
		wait *= 3
	}
}

func transient(err error) bool {
	switch cause.Of(err) {
	case cause.NoTPM, cause.Timeout, cause.TPMFailed:
		return true
	}
	return false
}

func (h *Handler) unlock(ctx context.Context) error {
	found, err := h.load(ctx)
	if err != nil {
		return err
	}
	key, rec, vouched, err := h.unwrap(ctx, found)
	if withheld(err) {
		if done, oerr := h.alreadyOpen(ctx, rec); done || oerr != nil {
			return oerr
		}
	}
	if err != nil {
		return err
	}
	defer key.Destroy()
	m, err := h.vetted(rec, vouched)
	if err != nil {
		return err
	}
	if err := h.verifyPolicies(m); err != nil {
		return err
	}
	// The copies of keys of one attempt end here, whatever comes of it.
	if err := h.openAll(ctx, m, key.Bytes()); err != nil {
		return errors.Join(err, h.closeAgain(m))
	}
	h.manifest = m
	h.tidy(ctx, found, rec)
	return nil
}

// load returns the records, the newest first, at least one. Without any, the
// wrapper's anchor and the directories say whether there should be one.
func (h *Handler) load(ctx context.Context) ([]record.Found, error) {
	found, err := h.slots.Load()
	if len(found) > 0 {
		if err != nil {
			h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "one record is damaged, the other is used", slog.Any("error", err))
		}
		return found, nil
	}
	if err != nil {
		return nil, cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
	}
	known, err := h.wasEnabled(ctx)
	if err != nil {
		return nil, err
	}
	if known {
		return nil, cause.At(cause.StateMissing, h.cfg.StateDir, nil)
	}
	return nil, cause.New(cause.NotEnabled, nil)
}

// wasEnabled looks for traces of an enabled system outside of the record.
func (h *Handler) wasEnabled(ctx context.Context) (bool, error) {
	if a, ok := h.cfg.Wrapper.(Anchor); ok {
		if _, committed, err := a.Committed(ctx); err != nil || committed {
			return committed, err
		}
	}
	for _, dir := range h.cfg.Directories {
		if _, err := fscrypt.GetPolicy(h.cfg.Kernel, dir); err == nil {
			return true, nil
		}
	}
	return false, nil
}

// withheld reports whether the key is only not given out any more in this boot.
func withheld(err error) bool {
	code := cause.Of(err)
	return code == cause.Capped || code == cause.PCRChanged
}

// alreadyOpen is the way of a handler that was restarted after the key was
// capped: the kernel got the keys in an approved state of this boot and has them
// still, so the anchor alone vouches for the manifest. It returns false where the
// key is needed after all, and an error for a directory that is not the protected
// one.
func (h *Handler) alreadyOpen(ctx context.Context, rec record.Found) (bool, error) {
	a, ok := h.cfg.Wrapper.(Anchor)
	if !ok || !rec.Complete {
		return false, nil
	}
	m, err := record.ParseManifest(rec.Manifest)
	if err != nil {
		return false, cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
	}
	binding, committed, err := a.Committed(ctx)
	if err != nil {
		return false, err
	}
	if !committed || binding != rec.Binding() {
		return false, cause.New(cause.ManifestForged, errNotVouched)
	}
	if err := h.verifyCovered(m); err != nil {
		return false, err
	}
	if err := h.verifyPolicies(m); err != nil {
		return false, err
	}
	if open, err := h.open(m); err != nil || !open {
		return false, err
	}
	if err := h.verifyReadable(m); err != nil {
		return false, err
	}
	h.manifest = m
	return true, nil
}

var errNotVouched = errors.New("integrity: the wrapper does not vouch for the manifest")

// unwrap opens the newest record that opens. The error is that of the newest that
// is only withheld in this boot, which is returned with it, or that of the newest
// of all: after an interrupted Rewrap the newest may be one for another wrapper.
func (h *Handler) unwrap(ctx context.Context, found []record.Found) (*secmem.Buffer, record.Found, bool, error) {
	key, err := secmem.New(KeySize)
	if err != nil {
		return nil, record.Found{}, false, cause.New(cause.Kernel, err)
	}
	var first error
	var closed record.Found
	for _, rec := range found {
		binding := rec.Binding()
		vouched, err := h.cfg.Wrapper.Unwrap(ctx, rec.Wrapped, binding[:], key.Bytes())
		if err == nil {
			return key, rec, vouched, nil
		}
		if first == nil || (withheld(err) && !withheld(first)) {
			first, closed = err, rec
		}
	}
	key.Destroy()
	return nil, closed, false, fmt.Errorf("integrity: unwrap key: %w", first)
}

// vetted returns the manifest of a record that was unwrapped, if it may be used.
func (h *Handler) vetted(rec record.Found, vouched bool) (*record.Manifest, error) {
	m, err := record.ParseManifest(rec.Manifest)
	if err != nil {
		return nil, cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
	}
	_, anchored := h.cfg.Wrapper.(Anchor)
	switch {
	case rec.Complete && anchored && !vouched:
		return nil, cause.New(cause.ManifestForged, errNotVouched)
	case !rec.Complete && !vouched:
		return nil, cause.New(cause.NotEnabled, errors.New("integrity: enabling was interrupted: enable again"))
	}
	return m, h.verifyCovered(m)
}

func (h *Handler) openAll(ctx context.Context, m *record.Manifest, raw []byte) error {
	if err := h.addKeys(m, raw); err != nil {
		return err
	}
	if err := h.verifyReadable(m); err != nil {
		return err
	}
	if c, ok := h.cfg.Wrapper.(Capper); ok {
		if err := c.Cap(ctx); err != nil {
			return fmt.Errorf("integrity: cap key: %w", err)
		}
	}
	return nil
}

// closeAgain locks what a failed attempt opened.
func (h *Handler) closeAgain(m *record.Manifest) error {
	if err := h.removeKeys(m); err != nil {
		return fmt.Errorf("integrity: lock again: %w", err)
	}
	return nil
}

// tidy ends what an interruption left: an enabling that lacks its mark, and a
// record that a newer one replaced. Failing there does not fail the boot.
func (h *Handler) tidy(ctx context.Context, found []record.Found, used record.Found) {
	if err := h.finish(found, used); err != nil {
		h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "state directory was not tidied", slog.Any("error", err))
	}
}

func (h *Handler) finish(found []record.Found, used record.Found) error {
	newest := found[0]
	if used.Generation != newest.Generation {
		// The newest does not open in this boot state, and may in the next.
		return nil
	}
	if !used.Complete {
		next := *used.Record
		next.Complete = true
		if _, err := h.slots.Store(&newest, next); err != nil {
			return err
		}
		return h.slots.Drop(used)
	}
	for _, old := range found[1:] {
		if err := h.slots.Drop(old); err != nil {
			return err
		}
	}
	return nil
}
