// Package durable replaces files so that a crash at any moment leaves either
// the old content or the new content, never a mix and never nothing.
//
// The order is always the same: write a temporary file in the same directory,
// fsync it, rename it over the target, fsync the directory. When a call returns
// nil, the new content survives a power cut.
//
// The zero [Writer] is ready for use. Its Before hook lets a test stop at every
// step; package durabletest runs an operation once for each of them.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Step is a point in the life of a replacement.
type Step string

// The steps, in their order. A hook is called before each.
const (
	StepCreate   Step = "create temporary file"
	StepWrite    Step = "write"
	StepSyncFile Step = "sync file"
	StepRename   Step = "rename"
	StepRemove   Step = "remove"
	StepSyncDir  Step = "sync directory"
)

// ErrStopped, returned by a Before hook, stands for the process dying at that
// point: nothing more is done, not even cleaning up.
var ErrStopped = errors.New("durable: stopped by test")

// tempPrefix marks our temporary files, so that Sweep finds what a crash left.
const tempPrefix = ".durable-"

// Writer replaces and removes files. The zero value is ready for use and safe
// for concurrent use.
type Writer struct {
	// Before, when not nil, is called before each step with the target's path.
	// An error ends the operation with that error.
	Before func(step Step, path string) error
}

func (w Writer) before(step Step, path string) error {
	if w.Before == nil {
		return nil
	}
	return w.Before(step, path)
}

// WriteFile replaces the file at path with data, with the permissions perm
// exactly (the umask does not apply). The directory must exist.
func (w Writer) WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := w.Create(path, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Abort()
		return err
	}
	return f.Commit()
}

// Remove deletes the file at path and makes the deletion durable. A file that
// is not there is no error.
func (w Writer) Remove(path string) error {
	if err := w.before(StepRemove, path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("durable: %w", err)
	}
	return w.SyncDir(filepath.Dir(path))
}

// Rename moves a file that is already synced to a new name, on the same file
// system, and makes the move durable.
func (w Writer) Rename(from, to string) error {
	if err := w.before(StepRename, to); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if err := w.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return w.SyncDir(filepath.Dir(from))
	}
	return nil
}

// SyncDir makes the entries of a directory durable.
func (w Writer) SyncDir(dir string) error {
	if err := w.before(StepSyncDir, dir); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("durable: sync directory %q: %w", dir, err)
	}
	return nil
}

// MkdirAll makes a directory and its parents, each of them durable.
func (w Writer) MkdirAll(dir string, perm fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("durable: %q is not a directory", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := w.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("durable: %w", err)
	}
	return w.SyncDir(parent)
}

// Sweep deletes the temporary files that crashed replacements left in dir. Call
// it only while no replacement runs in dir; when others write there, name the
// files whose replacements are meant, and no others are touched. A file that is
// gone already is no error.
func (w Writer) Sweep(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.Type().IsRegular() || !isTemp(e.Name(), names) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// isTemp tells whether a file is a temporary one of a target among names, or of
// any target when there are none.
func isTemp(file string, names []string) bool {
	rest, ok := strings.CutPrefix(file, tempPrefix)
	if !ok || len(names) == 0 {
		return ok
	}
	// What stands after the last hyphen is random and has no hyphen.
	i := strings.LastIndexByte(rest, '-')
	return i >= 0 && slices.Contains(names, rest[:i])
}

// File is the new content of a file, not visible under its name until Commit.
// It is not safe for concurrent use. Either Commit or Abort must be called.
type File struct {
	w    Writer
	f    *os.File
	path string
	done bool
}

// Create begins the replacement of the file at path. The new file has the
// permissions perm exactly.
func (w Writer) Create(path string, perm fs.FileMode) (*File, error) {
	if err := w.before(StepCreate, path); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	if err := f.Chmod(perm); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, fmt.Errorf("durable: %w", err)
	}
	return &File{w: w, f: f, path: path}, nil
}

// Write appends to the new content.
func (f *File) Write(p []byte) (int, error) {
	if err := f.w.before(StepWrite, f.path); err != nil {
		if errors.Is(err, ErrStopped) {
			// A crash in the middle of a write leaves part of it.
			_, _ = f.f.Write(p[:len(p)/2])
		}
		return 0, err
	}
	n, err := f.f.Write(p)
	if err != nil {
		err = fmt.Errorf("durable: write %q: %w", f.path, err)
	}
	return n, err
}

// WriteAt writes to the new content at an offset.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.w.before(StepWrite, f.path); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		err = fmt.Errorf("durable: write %q: %w", f.path, err)
	}
	return n, err
}

// Commit makes the new content durable and visible. After an error the old
// content is still in force unless the error comes from the last step (sync of
// the directory), in which case either may be.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("durable: %q was committed or aborted before", f.path)
	}
	if err := f.sync(); err != nil {
		f.fail(err)
		return err
	}
	if err := f.w.before(StepRename, f.path); err != nil {
		f.fail(err)
		return err
	}
	if err := os.Rename(f.f.Name(), f.path); err != nil {
		err = fmt.Errorf("durable: %w", err)
		f.fail(err)
		return err
	}
	f.done = true
	return f.w.SyncDir(filepath.Dir(f.path))
}

// CommitNew is like Commit, but never replaces anything: when a file of this name
// exists, also one that another process has just made, the new content is given
// up and the error wraps [fs.ErrExist]. It needs a file system with hard links;
// elsewhere the error is that of [os.Link].
func (f *File) CommitNew() error {
	if f.done {
		return fmt.Errorf("durable: %q was committed or aborted before", f.path)
	}
	if err := f.sync(); err != nil {
		f.fail(err)
		return err
	}
	if err := f.w.before(StepRename, f.path); err != nil {
		f.fail(err)
		return err
	}
	if err := os.Link(f.f.Name(), f.path); err != nil {
		err = fmt.Errorf("durable: %w", err)
		f.fail(err)
		return err
	}
	f.done = true
	if err := f.w.before(StepRemove, f.path); err != nil {
		return err
	}
	// A second name that stays is swept like what a crash leaves.
	_ = os.Remove(f.f.Name())
	return f.w.SyncDir(filepath.Dir(f.path))
}

func (f *File) sync() error {
	if err := f.w.before(StepSyncFile, f.path); err != nil {
		return err
	}
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("durable: sync %q: %w", f.path, err)
	}
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("durable: close %q: %w", f.path, err)
	}
	return nil
}

// fail ends the replacement; a simulated crash leaves the temporary file.
func (f *File) fail(cause error) {
	f.done = true
	_ = f.f.Close()
	if !errors.Is(cause, ErrStopped) {
		_ = os.Remove(f.f.Name())
	}
}

// Abort gives the new content up. The old content stays. It does nothing after
// Commit.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.f.Close()
	_ = os.Remove(f.f.Name())
}
