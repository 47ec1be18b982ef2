package autoinstall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mooringlib/mooring/internal/durable"
)

// FileInstaller is an [Installer] that keeps the configuration in a file, and
// parts in files of their own beside it. A product that has a configuration
// database writes its own Installer.
//
// The parts of one whole configuration are in a folder that is named by its
// digest, PATH.d/DIGEST/0001-PARTDIGEST.cfg and so on, numbered as they were
// loaded: so a new whole configuration comes into force together with the end of
// all old parts, in one rename. [FileInstaller.Parts] lists those in force.
type FileInstaller struct {
	path string
	disk durable.Writer
}

// NewFileInstaller returns an Installer that writes the configuration to path
// (mode 0600) and parts below the folder path + ".d". The folder of path is made
// when it is not there.
func NewFileInstaller(path string) *FileInstaller { return &FileInstaller{path: path} }

// Current returns the digest of the file, and "" when there is none.
func (f *FileInstaller) Current(context.Context) (string, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("autoinstall: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", fmt.Errorf("autoinstall: read %q: %w", f.path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Install replaces the file, or adds a part.
func (f *FileInstaller) Install(ctx context.Context, c *Configuration) error {
	if err := f.disk.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	if err := f.disk.Sweep(filepath.Dir(f.path), filepath.Base(f.path)); err != nil {
		return err
	}
	if c.Part {
		return f.installPart(ctx, c)
	}
	// Parts of this very configuration, when it is in force or was before.
	if err := f.retire(c.Digest); err != nil {
		return err
	}
	if err := f.disk.WriteFile(f.path, c.Content, 0o600); err != nil {
		return err
	}
	// From here on no part is in force; what a crash leaves is removed by the
	// next installation.
	return f.removeParts()
}

// retire takes the parts of a whole configuration out of force, all at once.
func (f *FileInstaller) retire(digest string) error {
	folder := filepath.Join(f.path+".d", digest)
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old := folder + ".old"
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("autoinstall: %w", err)
	}
	return f.disk.Rename(folder, old)
}

// installPart adds c behind the other parts. The newest part once more is what
// a crash has left without a record.
func (f *FileInstaller) installPart(ctx context.Context, c *Configuration) error {
	current, err := f.Current(ctx)
	if err != nil {
		return err
	}
	if current == "" {
		return fmt.Errorf("autoinstall: %w", ErrNoWhole)
	}
	folder := filepath.Join(f.path+".d", current)
	if err := f.disk.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := f.disk.Sweep(folder); err != nil {
		return err
	}
	parts, err := f.Parts(ctx)
	if err != nil {
		return err
	}
	number := 0
	if len(parts) > 0 {
		last := filepath.Base(parts[len(parts)-1])
		if strings.HasSuffix(last, "-"+c.Digest+".cfg") {
			return nil
		}
		if number, err = strconv.Atoi(last[:4]); err != nil {
			return fmt.Errorf("autoinstall: %q is not the name of a part", last)
		}
	}
	if number++; number > maxParts {
		return fmt.Errorf("autoinstall: %d parts are in force already: load a whole configuration", maxParts)
	}
	return f.disk.WriteFile(filepath.Join(folder, fmt.Sprintf("%04d-%s.cfg", number, c.Digest)), c.Content, 0o600)
}

// Parts returns the paths of the parts in force, in the order in which they
// were loaded.
func (f *FileInstaller) Parts(ctx context.Context) ([]string, error) {
	current, err := f.Current(ctx)
	if err != nil || current == "" {
		return nil, err
	}
	folder := filepath.Join(f.path+".d", current)
	entries, err := os.ReadDir(folder) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("autoinstall: %w", err)
	}
	var parts []string
	for _, e := range entries {
		if ok, _ := filepath.Match("[0-9][0-9][0-9][0-9]-*.cfg", e.Name()); ok {
			parts = append(parts, filepath.Join(folder, e.Name()))
		}
	}
	return parts, nil
}

// Remove deletes the file and all parts.
func (f *FileInstaller) Remove(context.Context) error {
	if _, err := os.Stat(filepath.Dir(f.path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.disk.Remove(f.path); err != nil {
		return err
	}
	return f.removeParts()
}

// removeParts deletes all parts. None may be in force.
func (f *FileInstaller) removeParts() error {
	folder := f.path + ".d"
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("autoinstall: %w", err)
	}
	return f.disk.SyncDir(filepath.Dir(folder))
}
