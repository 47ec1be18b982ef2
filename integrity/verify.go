package integrity

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
)

// verifyPolicies compares what is on the disk with the manifest. It needs no
// key, so it is done before one is handed out.
func (h *Handler) verifyPolicies(m *record.Manifest) error {
	for _, e := range m.Entries {
		if err := h.verifyPolicy(e); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) verifyPolicy(e record.Entry) error {
	p, err := fscrypt.GetPolicy(h.cfg.Kernel, e.Path)
	switch {
	case errors.Is(err, fscrypt.ErrPlain):
		return cause.At(cause.DirectoryPlain, e.Path, nil)
	case errors.Is(err, fscrypt.ErrUnsupported):
		return cause.At(cause.Unsupported, e.Path, err)
	case errors.Is(err, fs.ErrNotExist):
		return cause.At(cause.DirectoryMissing, e.Path, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		// A file or a symbolic link has the directory's name.
		return cause.At(cause.DirectoryPlain, e.Path, err)
	case err != nil:
		return cause.At(cause.Kernel, e.Path, err)
	case p.Identifier != e.Policy.Identifier:
		return cause.At(cause.DirectoryWrongKey, e.Path, fmt.Errorf("integrity: key identifier is %s instead of %s", p.Identifier, e.Policy.Identifier))
	case p != e.Policy:
		return cause.At(cause.DirectoryWrongPolicy, e.Path, fmt.Errorf("integrity: encryption policy is %+v instead of %+v", p, e.Policy))
	}
	return nil
}

// verifyReadable proves that every directory is really open.
func (h *Handler) verifyReadable(m *record.Manifest) error {
	for _, e := range m.Entries {
		if err := h.cfg.Kernel.Probe(e.Path); err != nil {
			return cause.At(cause.DirectoryUnreadable, e.Path, err)
		}
	}
	return nil
}

// verifyCovered makes sure that every configured directory is in the manifest.
func (h *Handler) verifyCovered(m *record.Manifest) error {
	for _, dir := range h.cfg.Directories {
		if !slices.ContainsFunc(m.Entries, func(e record.Entry) bool { return e.Path == dir }) {
			return cause.At(cause.ConfigChanged, dir, errors.New("integrity: the directory was not there when integrity was enabled"))
		}
	}
	if m.Mode != h.mode {
		return cause.New(cause.ConfigChanged, errors.New("integrity: the manifest has another mode than is configured"))
	}
	return nil
}

// open reports whether every key is with the kernel, so that nothing needs to be
// unwrapped.
func (h *Handler) open(m *record.Manifest) (bool, error) {
	vols, err := h.volumes(m)
	if err != nil {
		return false, err
	}
	for v, dir := range vols {
		p, err := fscrypt.KeyPresence(h.cfg.Kernel, dir, v.id)
		if err != nil {
			return false, kernelError(dir, err)
		}
		if p != fscrypt.Present {
			return false, nil
		}
	}
	return true, nil
}
