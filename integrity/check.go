package integrity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

// Finding is one requirement and whether the system meets it.
type Finding struct {
	// Requirement is one line, such as `TPM can protect a key`.
	Requirement string `json:"requirement"`
	// OK is whether it is met.
	OK bool `json:"ok"`
	// Detail says what was found: why not, or advice.
	Detail string `json:"detail,omitempty"`
}

// CheckError is returned by [Handler.Enable] on a system that does not meet
// every requirement.
type CheckError struct {
	// Findings are all of them, the met ones as well.
	Findings []Finding
}

// Error names what is not met.
func (e *CheckError) Error() string {
	var missing []string
	for _, f := range e.Findings {
		if !f.OK {
			missing = append(missing, f.Requirement+": "+f.Detail)
		}
	}
	return "integrity: this system cannot be protected: " + strings.Join(missing, "; ")
}

func failed(findings []Finding) bool {
	for _, f := range findings {
		if !f.OK {
			return true
		}
	}
	return false
}

// Check reports every requirement for Enable, met or not. It proves them where
// that can be done: an encrypted directory with a throw-away key is made beside
// each file system's directories, and removed again. On a system that is enabled
// it says so in one finding. The error is that of ctx.
func (h *Handler) Check(ctx context.Context) ([]Finding, error) {
	var findings []Finding
	err := h.exclusive(ctx, func() error {
		found, err := h.slots.Load()
		if len(found) > 0 && found[0].Complete {
			findings = []Finding{{Requirement: "not enabled yet", OK: true, Detail: "configuration integrity is enabled on this system already"}}
			return nil
		}
		var own map[string]bool
		if len(found) > 0 {
			own = ownDirectories(found[0].Record)
		}
		findings = h.check(ctx, own)
		if err != nil {
			findings = append(findings, Finding{Requirement: "no damaged record", Detail: err.Error()})
		}
		return nil
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return findings, err
	case errors.Is(err, errInUse):
		return []Finding{{Requirement: "no other integrity handler at work", Detail: err.Error()}}, nil
	}
	// Without a state directory nothing is enabled here.
	return append(h.check(ctx, nil), Finding{Requirement: "state directory can be used", Detail: err.Error()}), nil
}

func (h *Handler) check(ctx context.Context, own map[string]bool) []Finding {
	var out []Finding
	add := func(requirement string, err error) {
		f := Finding{Requirement: requirement, OK: err == nil}
		var advice interface{ Warning() bool }
		if err != nil {
			f.Detail = err.Error()
			f.OK = errors.As(err, &advice) && advice.Warning()
		}
		out = append(out, f)
	}
	if c, ok := h.cfg.Wrapper.(Checker); ok {
		problems := c.Check(ctx)
		if len(problems) == 0 {
			add("key wrapper works", nil)
		}
		for _, p := range problems {
			add("key wrapper works", p)
		}
	}
	probe, err := secmem.New(KeySize)
	if err == nil {
		probe.Destroy()
	}
	add("memory can be locked", err)
	add("state directory can be written", h.checkState())
	tried := make(map[uint64]bool)
	for _, dir := range h.cfg.Directories {
		add(fmt.Sprintf("directory %q can be encrypted", dir), h.checkDirectory(dir, own, tried))
	}
	return out
}

func (h *Handler) checkState() error {
	f, err := os.CreateTemp(h.cfg.StateDir, ".check-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (h *Handler) checkDirectory(dir string, own map[string]bool, tried map[uint64]bool) error {
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		return errors.New("it is not a directory")
	}
	base, err := existing(dir)
	if err != nil {
		return err
	}
	policy, err := fscrypt.GetPolicy(h.cfg.Kernel, base)
	switch {
	case err == nil && base == dir && own[dir+"\x00"+policy.Identifier.String()]:
		return nil
	case err == nil && base == dir:
		return fmt.Errorf("it is encrypted already, with the key %s", policy.Identifier)
	case err == nil:
		return fmt.Errorf("it would be inside of %q, which is encrypted already", base)
	case errors.Is(err, fscrypt.ErrUnsupported):
		return fmt.Errorf("the file system of %q does not support encryption (on ext4: tune2fs -O encrypt DEVICE): %w", base, err)
	case !errors.Is(err, fscrypt.ErrPlain):
		return err
	}
	if empty, err := emptyOrMissing(dir); err != nil || !empty {
		if err == nil {
			err = errors.New("it holds files, and moving files into encryption leaves their plain blocks on the disk; make it empty, on a disk that never held secrets")
		}
		return err
	}
	if base == dir {
		base = filepath.Dir(dir)
	}
	return h.trialDirectory(base, dir, tried)
}

// existing returns dir or its nearest ancestor that is there.
func existing(dir string) (string, error) {
	for {
		_, err := os.Lstat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

// trialDirectory encrypts a directory of its own, because the kernel takes keys
// and policies that it cannot use, and fails only with the first file.
func (h *Handler) trialDirectory(base, dir string, tried map[uint64]bool) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		// A mount point has its file system inside.
		base = dir
	}
	dev, err := h.cfg.Kernel.Device(base)
	if err != nil {
		return err
	}
	if parent, err := h.cfg.Kernel.Device(filepath.Dir(dir)); base == dir && err == nil {
		if parent != dev {
			return errors.New("it is the root of a file system, which cannot be encrypted: use a directory in it")
		}
		base = filepath.Dir(dir)
	}
	if tried[dev] {
		return nil
	}
	trial, err := os.MkdirTemp(base, ".integrity-trial-*")
	if err != nil {
		return fmt.Errorf("a directory cannot be made: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(trial)) }()
	key, err := secmem.New(KeySize)
	if err != nil {
		return err
	}
	defer key.Destroy()
	if _, err := rand.Read(key.Bytes()); err != nil {
		return err
	}
	id, err := fscrypt.AddKey(h.cfg.Kernel, trial, key.Bytes())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fscrypt.RemoveKey(h.cfg.Kernel, base, id)) }()
	if err := fscrypt.SetPolicy(h.cfg.Kernel, trial, fscrypt.NewPolicy(id)); err != nil {
		return err
	}
	if err := h.cfg.Kernel.Probe(trial); err != nil {
		return fmt.Errorf("a file in a trial directory cannot be made: %w", err)
	}
	tried[dev] = true
	return nil
}
