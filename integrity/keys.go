package integrity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/fsmeta"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

func (h *Handler) generate(ctx context.Context) (*secmem.Buffer, error) {
	key, err := secmem.New(KeySize)
	if err != nil {
		return nil, cause.New(cause.Kernel, err)
	}
	if source, ok := h.cfg.Wrapper.(KeySource); ok {
		err = source.GenerateKey(ctx, key.Bytes())
	} else {
		_, err = rand.Read(key.Bytes())
	}
	if err != nil {
		key.Destroy()
		return nil, fmt.Errorf("integrity: make key: %w", err)
	}
	return key, nil
}

// volume is one file system and key that protected directories are on.
type volume struct {
	device uint64
	id     fscrypt.Identifier
}

// volumes groups the directories by file system and key. The value is one
// directory of each, through which the kernel is spoken to.
func (h *Handler) volumes(m *record.Manifest) (map[volume]string, error) {
	out := make(map[volume]string)
	for _, e := range m.Entries {
		dev, err := h.cfg.Kernel.Device(e.Path)
		if err != nil {
			return nil, cause.At(cause.DirectoryMissing, e.Path, err)
		}
		v := volume{dev, e.Policy.Identifier}
		if _, ok := out[v]; !ok {
			out[v] = e.Path
		}
	}
	return out, nil
}

// mount returns the root of the file system that holds path, as far as this
// mount namespace shows it.
func (h *Handler) mount(path string) (string, error) {
	dev, err := h.cfg.Kernel.Device(path)
	if err != nil {
		return "", err
	}
	for path != "/" {
		up := filepath.Dir(path)
		d, err := h.cfg.Kernel.Device(up)
		if err != nil {
			return "", err
		}
		if d != dev {
			break
		}
		path = up
	}
	return path, nil
}

// masterKey returns the key whose identifier is id: the raw key itself, or what
// the fscrypt tool's metadata keeps under it. The caller destroys it.
func (h *Handler) masterKey(m *record.Manifest, raw []byte, dir string, id fscrypt.Identifier) (*secmem.Buffer, error) {
	if m.Mode == record.Direct {
		key, err := secmem.New(len(raw))
		if err != nil {
			return nil, cause.New(cause.Kernel, err)
		}
		copy(key.Bytes(), raw)
		return matching(key, id)
	}
	root, err := h.mount(dir)
	if err != nil {
		return nil, cause.At(cause.DirectoryMissing, dir, err)
	}
	store := fsmeta.Store{Mount: root, Writer: h.cfg.writer}
	key, err := store.Open(raw, id)
	if err == nil {
		return matching(key, id)
	}
	// The tool's metadata is lost or was taken over by somebody else. The key
	// that it had can be derived again, if it was made here.
	key, derr := fsmeta.Derive(raw, m.Salt[:])
	if derr != nil {
		return nil, cause.New(cause.Kernel, errors.Join(err, derr))
	}
	return matching(key, id)
}

func matching(key *secmem.Buffer, id fscrypt.Identifier) (*secmem.Buffer, error) {
	got, err := fscrypt.Identify(key.Bytes())
	if err == nil && got == id {
		return key, nil
	}
	key.Destroy()
	if err == nil {
		err = fmt.Errorf("integrity: key has identifier %s, not %s", got, id)
	}
	return nil, cause.New(cause.WrongKey, err)
}

// addKeys hands the keys of all directories to the kernel.
func (h *Handler) addKeys(m *record.Manifest, raw []byte) error {
	vols, err := h.volumes(m)
	if err != nil {
		return err
	}
	for v, dir := range vols {
		key, err := h.masterKey(m, raw, dir, v.id)
		if err != nil {
			return err
		}
		_, err = fscrypt.AddKey(h.cfg.Kernel, dir, key.Bytes())
		key.Destroy()
		if err != nil {
			return kernelError(dir, err)
		}
	}
	return nil
}

// removeKeys takes every key away, and goes on after an error.
func (h *Handler) removeKeys(m *record.Manifest) error {
	vols, err := h.volumes(m)
	if err != nil {
		return err
	}
	var errs []error
	busy := false
	for v, dir := range vols {
		err := fscrypt.RemoveKey(h.cfg.Kernel, h.outside(dir, v.device), v.id)
		if errors.Is(err, fscrypt.ErrBusy) {
			// What was in use for a moment only is not worth a report.
			err = fscrypt.RemoveKey(h.cfg.Kernel, h.outside(dir, v.device), v.id)
		}
		if errors.Is(err, fscrypt.ErrBusy) {
			busy = true
		} else if err != nil {
			errs = append(errs, kernelError(dir, err))
		}
	}
	if busy {
		errs = append(errs, ErrBusy)
	}
	return errors.Join(errs...)
}

// outside returns a directory of the same file system that is not encrypted, if
// there is one beside dir: a key cannot be removed wholly through a directory
// that it opens, since that is in use then.
func (h *Handler) outside(dir string, device uint64) string {
	up := filepath.Dir(dir)
	if d, err := h.cfg.Kernel.Device(up); err == nil && d == device {
		return up
	}
	return dir
}

func kernelError(dir string, err error) error {
	if errors.Is(err, fscrypt.ErrUnsupported) {
		return cause.At(cause.Unsupported, dir, err)
	}
	return cause.At(cause.Kernel, dir, err)
}
