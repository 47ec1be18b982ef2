package integrity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
)

// Status is what an operator sees. It holds no secret.
type Status struct {
	// Enabled is whether a complete record is there.
	Enabled bool `json:"enabled"`
	// Unlocked is whether every directory is the protected one, and open.
	Unlocked bool `json:"unlocked"`
	// Mode is that of the record, or the configured one.
	Mode Mode `json:"mode"`
	// Directories are those of the record, or the configured ones.
	Directories []DirectoryStatus `json:"directories"`
	// Hardware is manufacturer and version of the TPM, or why it does not say.
	Hardware string `json:"hardware,omitempty"`
	// LastEvent is the last integrity event; nil when there was none.
	LastEvent *LastEvent `json:"last_event,omitempty"`
	// Problem is what is wrong with the record, if anything.
	Problem string `json:"problem,omitempty"`
}

// DirectoryStatus is one directory.
type DirectoryStatus struct {
	Path string `json:"path"`
	// Identifier names the key, in hexadecimal digits; empty before enabling.
	Identifier string `json:"key_identifier,omitempty"`
	Unlocked   bool   `json:"unlocked"`
	// Problem is why it is not the protected directory or not readable.
	Problem string `json:"problem,omitempty"`
}

// LastEvent is an integrity event that was raised.
type LastEvent struct {
	Time  time.Time  `json:"time"`
	Cause cause.Code `json:"cause"`
	Path  string     `json:"path,omitempty"`
	PCRs  []uint     `json:"pcrs,omitempty"`
	Text  string     `json:"text"`
}

// Status looks at the system without changing it, and never asks for the key. A
// problem that it finds is in the result, not an error.
func (h *Handler) Status(ctx context.Context) (Status, error) {
	st := Status{Mode: h.cfg.Mode, LastEvent: h.lastEvent()}
	if c, ok := h.cfg.Wrapper.(Checker); ok {
		hardware, err := c.Describe(ctx)
		if err != nil {
			hardware = "not available: " + err.Error()
		}
		st.Hardware = hardware
	}
	found, err := h.slots.Load()
	if err != nil {
		st.Problem = err.Error()
	}
	if len(found) == 0 {
		for _, dir := range h.cfg.Directories {
			st.Directories = append(st.Directories, DirectoryStatus{Path: dir})
		}
		return st, nil
	}
	m, err := record.ParseManifest(found[0].Manifest)
	if err != nil {
		st.Problem = err.Error()
		return st, nil
	}
	st.Enabled, st.Unlocked = found[0].Complete, true
	if m.Mode == record.Compat {
		st.Mode = ModeCompat
	} else {
		st.Mode = ModeDirect
	}
	for _, e := range m.Entries {
		d := h.directoryStatus(e)
		st.Unlocked = st.Unlocked && d.Unlocked
		st.Directories = append(st.Directories, d)
	}
	return st, nil
}

func (h *Handler) directoryStatus(e record.Entry) DirectoryStatus {
	d := DirectoryStatus{Path: e.Path, Identifier: e.Policy.Identifier.String()}
	err := h.verifyPolicy(e)
	if err == nil {
		var p fscrypt.Presence
		if p, err = fscrypt.KeyPresence(h.cfg.Kernel, e.Path, e.Policy.Identifier); err == nil && p == fscrypt.Present {
			err = h.cfg.Kernel.Probe(e.Path)
			d.Unlocked = err == nil
		}
	}
	if err != nil {
		d.Problem = err.Error()
	}
	return d
}

// Lock blocks networking and takes the keys of all protected directories away
// from the kernel. It is idempotent. [ErrBusy] means that open files keep parts
// readable. It works without the wrapper.
func (h *Handler) Lock(ctx context.Context) error {
	err := h.exclusive(ctx, func() error { return h.lock(ctx) })
	h.event(ctx, "system.lock_integrity", "lock protected directories", err)
	return err
}

func (h *Handler) lock(ctx context.Context) error {
	if err := h.cfg.Network.Block(ctx, "protected directories are locked"); err != nil {
		return fmt.Errorf("integrity: block network: %w", err)
	}
	found, err := h.slots.Load()
	if len(found) == 0 {
		if err != nil {
			return cause.At(cause.RecordCorrupt, h.cfg.StateDir, err)
		}
		return cause.New(cause.NotEnabled, nil)
	}
	h.manifest = nil
	var errs []error
	for _, f := range found {
		m, err := record.ParseManifest(f.Manifest)
		if err != nil {
			errs = append(errs, cause.At(cause.RecordCorrupt, h.cfg.StateDir, err))
			continue
		}
		errs = append(errs, h.removeKeys(m))
	}
	return errors.Join(errs...)
}

const lastEventFile = "last-event.json"

func (h *Handler) lastEvent() *LastEvent {
	f, err := os.Open(filepath.Join(h.cfg.StateDir, lastEventFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateFile))
	if err != nil {
		return nil
	}
	var e LastEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return nil
	}
	return &e
}

// remember keeps an event for Status. The same event again is not written, so
// that retries do not wear the disk out.
func (h *Handler) remember(ctx context.Context, err error) {
	e := LastEvent{Time: h.cfg.Now().UTC(), Cause: cause.Of(err), Text: err.Error()}
	var c *cause.Error
	if errors.As(err, &c) {
		e.Path, e.PCRs = c.Path, c.PCRs
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := string(e.Cause) + " " + e.Path
	if h.remembered == key {
		return
	}
	data, err := json.MarshalIndent(e, "", "  ")
	if err == nil {
		err = h.cfg.writer.MkdirAll(h.cfg.StateDir, 0o700)
	}
	if err == nil {
		err = h.cfg.writer.WriteFile(filepath.Join(h.cfg.StateDir, lastEventFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "integrity event was not kept", slog.Any("error", err))
		return
	}
	h.remembered = key
}
