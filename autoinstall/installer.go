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

	"github.com/mooringlib/mooring/internal/durable"
)

// FileInstaller is an [Installer] that keeps the configuration in a file, and
// parts in files of their own beside it. A product that has a configuration
// database writes its own Installer.
type FileInstaller struct {
	path string
	disk durable.Writer
}

// NewFileInstaller returns an Installer that writes the configuration to path
// (mode 0600) and parts to the folder path + ".d". The folder of path is made
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

// Install replaces the file.
func (f *FileInstaller) Install(_ context.Context, c *Configuration) error {
	path := f.path
	if c.Part {
		path = filepath.Join(f.path+".d", c.Digest[:16]+".cfg")
	}
	if err := f.disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if !c.Part {
		// A whole configuration takes the place of all parts. Parts that are
		// left by a crash here are removed by the next installation.
		if err := f.removeParts(); err != nil {
			return err
		}
	}
	return f.disk.WriteFile(path, c.Content, 0o600)
}

// Remove deletes the file and all parts.
func (f *FileInstaller) Remove(context.Context) error {
	if err := f.removeParts(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Dir(f.path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return f.disk.Remove(f.path)
}

func (f *FileInstaller) removeParts() error {
	parts, err := filepath.Glob(filepath.Join(globEscape(f.path)+".d", "*.cfg"))
	if err != nil {
		return fmt.Errorf("autoinstall: %w", err)
	}
	for _, p := range parts {
		if err := f.disk.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// globEscape keeps a folder's name from being taken for a pattern.
func globEscape(path string) string {
	var b []byte
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			b = append(b, '\\')
		}
		b = append(b, path[i])
	}
	return string(b)
}
