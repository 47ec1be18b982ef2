// Package pairfs keeps pairs of a private key and a certificate in two plain
// files, and replaces both at one moment.
//
// In a directory, NAME.key and NAME.pem are the pair that is in force, and
// NAME.key.new is a key that waits for its certificate. A new certificate for
// the same key replaces NAME.pem by a rename. A new certificate for a new key has
// to replace two files, and two renames are two moments with a mix between them.
// So both names are first turned into symbolic links that go through one more
// link, .pair-NAME/current, whose rename is the one moment; then they are turned
// back into plain files:
//
//	NAME.key -> .pair-NAME/current/key      .pair-NAME/current -> a, then b
//	NAME.pem -> .pair-NAME/current/pem      .pair-NAME/{a,b}/{key,pem}
//
// Whoever opens the files at any point, after a crash too and before anything is
// repaired, finds the old pair or the new one. [Dir.Recover] tidies up.
package pairfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mooringlib/mooring/internal/durable"
)

const (
	keySuffix     = ".key"
	certSuffix    = ".pem"
	pendingSuffix = ".key.new"
	switchPrefix  = ".pair-"
	keyPerm       = 0o600
	certPerm      = 0o644
	dirPerm       = 0o700
	// maxFile bounds what is read from a file.
	maxFile = 1 << 20
	// readTries bounds how often a pair is read again because it changed
	// meanwhile.
	readTries = 16
)

// Dir is a directory of pairs. Its methods that write must be called by one
// caller at a time, over all processes; reading needs no lock.
type Dir struct {
	// Path is the directory, which Init makes.
	Path string
	// Writer is how files are written.
	Writer durable.Writer
}

// Pair is the content of the files of one name. A file that is not there is nil.
type Pair struct {
	Key, Cert, Pending []byte
	// Stamp changes when one of the files does.
	Stamp string
}

func (d Dir) path(name, suffix string) string { return filepath.Join(d.Path, name+suffix) }

// KeyPath and CertPath return where the files of a name are.
func (d Dir) KeyPath(name string) string  { return d.path(name, keySuffix) }
func (d Dir) CertPath(name string) string { return d.path(name, certSuffix) }

// Init makes the directory and repairs what a crash left.
func (d Dir) Init() error {
	if err := d.Writer.MkdirAll(d.Path, dirPerm); err != nil {
		return err
	}
	return d.Recover()
}

// Names returns the names that have a key, a certificate or a waiting key,
// sorted.
func (d Dir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		for _, suffix := range []string{pendingSuffix, keySuffix, certSuffix} {
			if name, ok := strings.CutSuffix(e.Name(), suffix); ok && name != "" {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Stamp returns a text that changes when a file of the pair does.
func (d Dir) Stamp(name string) string {
	var b strings.Builder
	for _, suffix := range []string{keySuffix, certSuffix, pendingSuffix} {
		info, err := os.Stat(d.path(name, suffix))
		if err != nil {
			b.WriteString("-;")
			continue
		}
		fmt.Fprintf(&b, "%d.%d.%s;", info.ModTime().UnixNano(), info.Size(), inode(info))
	}
	return b.String()
}

// Read returns the files of a name, all of one moment.
func (d Dir) Read(name string) (Pair, error) {
	for range readTries {
		p := Pair{Stamp: d.Stamp(name)}
		var err error
		if p.Key, err = readFile(d.path(name, keySuffix)); err != nil {
			return Pair{}, err
		}
		if p.Cert, err = readFile(d.path(name, certSuffix)); err != nil {
			return Pair{}, err
		}
		if p.Pending, err = readFile(d.path(name, pendingSuffix)); err != nil {
			return Pair{}, err
		}
		if d.Stamp(name) == p.Stamp {
			return p, nil
		}
	}
	return Pair{}, fmt.Errorf("the files of %q keep changing", name)
}

// readFile returns nil for a file that is not there.
func readFile(path string) ([]byte, error) {
	// Opening something else, such as a pipe, might not return.
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%q has more than %d bytes", path, maxFile)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// ready ends a switch of this name that stopped half-way, as after an error of
// the disk: a second one must not write into what the links lead to.
func (d Dir) ready(name string) error {
	if _, err := os.Lstat(filepath.Join(d.Path, switchPrefix+name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.settle(name)
}

// PutKey writes the first key of a name.
func (d Dir) PutKey(name string, key []byte) error {
	if err := d.ready(name); err != nil {
		return err
	}
	return d.Writer.WriteFile(d.path(name, keySuffix), key, keyPerm)
}

// PutPending writes a key that waits for its certificate.
func (d Dir) PutPending(name string, key []byte) error {
	if err := d.ready(name); err != nil {
		return err
	}
	return d.Writer.WriteFile(d.path(name, pendingSuffix), key, keyPerm)
}

// PutCert writes a certificate for the key that is in force.
func (d Dir) PutCert(name string, cert []byte) error {
	if err := d.ready(name); err != nil {
		return err
	}
	return d.Writer.WriteFile(d.path(name, certSuffix), cert, certPerm)
}

// Switch puts the waiting key and its certificate in force, both at one moment.
func (d Dir) Switch(name string, cert []byte) error {
	if err := d.ready(name); err != nil {
		return err
	}
	p, err := d.Read(name)
	if err != nil {
		return err
	}
	if p.Pending == nil {
		return fmt.Errorf("no key of %q waits for a certificate", name)
	}
	base := filepath.Join(d.Path, switchPrefix+name)
	for dir, pair := range map[string]Pair{"a": p, "b": {Key: p.Pending, Cert: cert}} {
		if err := d.generation(filepath.Join(base, dir), pair); err != nil {
			return err
		}
	}
	if err := d.link("a", filepath.Join(base, "current")); err != nil {
		return err
	}
	through := filepath.Join(switchPrefix+name, "current")
	if err := d.link(filepath.Join(through, "key"), d.path(name, keySuffix)); err != nil {
		return err
	}
	if err := d.link(filepath.Join(through, "pem"), d.path(name, certSuffix)); err != nil {
		return err
	}
	// This rename is the moment.
	if err := d.link("b", filepath.Join(base, "current")); err != nil {
		return err
	}
	return d.settle(name)
}

func (d Dir) generation(dir string, p Pair) error {
	if err := d.Writer.MkdirAll(dir, dirPerm); err != nil {
		return err
	}
	if p.Key != nil {
		if err := d.Writer.WriteFile(filepath.Join(dir, "key"), p.Key, keyPerm); err != nil {
			return err
		}
	}
	if p.Cert != nil {
		return d.Writer.WriteFile(filepath.Join(dir, "pem"), p.Cert, certPerm)
	}
	return nil
}

// link replaces whatever is at path with a symbolic link, by a rename.
func (d Dir) link(target, path string) error {
	if d.Writer.Before != nil {
		if err := d.Writer.Before(durable.StepCreate, path); err != nil {
			return err
		}
	}
	temp := filepath.Join(filepath.Dir(path), ".link-"+filepath.Base(path))
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return d.Writer.Rename(temp, path)
}

// settle turns the links of a name back into plain files with the content that
// they lead to, and removes what the switch needed.
func (d Dir) settle(name string) error {
	for suffix, perm := range map[string]fs.FileMode{keySuffix: keyPerm, certSuffix: certPerm} {
		path := d.path(name, suffix)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if err != nil {
			return err
		}
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, switchPrefix) {
			continue // a link that somebody else made
		}
		data, err := readFile(path)
		if err != nil {
			return err
		}
		if data == nil {
			// It leads to nothing: there was no such file before the switch.
			err = d.Writer.Remove(path)
		} else {
			err = d.Writer.WriteFile(path, data, perm)
		}
		if err != nil {
			return err
		}
	}
	if err := d.dropPending(name); err != nil {
		return err
	}
	return d.removeAll(filepath.Join(d.Path, switchPrefix+name))
}

// dropPending removes a waiting key that is in force already.
func (d Dir) dropPending(name string) error {
	p, err := d.Read(name)
	if err != nil {
		return err
	}
	if p.Pending == nil || !bytes.Equal(p.Pending, p.Key) {
		return nil
	}
	return d.Writer.Remove(d.path(name, pendingSuffix))
}

// removeAll removes a directory whose content nobody needs.
func (d Dir) removeAll(dir string) error {
	if d.Writer.Before != nil {
		if err := d.Writer.Before(durable.StepRemove, dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return d.Writer.SyncDir(filepath.Dir(dir))
}

// Recover ends what a crash interrupted.
func (d Dir) Recover() error {
	if err := d.Writer.Sweep(d.Path); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name, ok := strings.CutPrefix(e.Name(), switchPrefix); {
		case strings.HasPrefix(e.Name(), ".link-"):
			if err := d.Writer.Remove(filepath.Join(d.Path, e.Name())); err != nil {
				return err
			}
		case ok && e.IsDir():
			if err := d.settle(name); err != nil {
				return err
			}
		}
	}
	return nil
}
