package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mooringlib/mooring/integrity/fscrypt"
)

const (
	magic           = "MOORINGREC"
	version         = 1
	manifestVersion = 1
	flagComplete    = 1

	// MaxDirectories bounds a manifest.
	MaxDirectories = 1024
	// MaxPath bounds the path of a directory.
	MaxPath     = 4095
	maxManifest = 8 << 20
	maxWrapped  = 64 << 10
	// maxRecord bounds the file.
	maxRecord = maxManifest + maxWrapped + 256
)

// ErrCorrupt means that a record fails its checksum or its form.
var ErrCorrupt = errors.New("record is damaged")

// Record is one generation of the state.
type Record struct {
	// Generation grows by one with each record.
	Generation uint64
	// Complete is set once enabling has come to its end.
	Complete bool
	// Manifest is the encoded manifest, and Wrapped what the key wrapper made.
	Manifest, Wrapped []byte
}

// Binding is the digest of the manifest, which the TPM vouches for.
func (r *Record) Binding() [32]byte { return sha256.Sum256(r.Manifest) }

// Marshal encodes the record.
func (r *Record) Marshal() ([]byte, error) {
	if len(r.Manifest) > maxManifest || len(r.Wrapped) > maxWrapped {
		return nil, fmt.Errorf("record: manifest of %d or wrapped key of %d bytes is too long", len(r.Manifest), len(r.Wrapped))
	}
	var w cryptobyte.Builder
	w.AddBytes([]byte(magic))
	w.AddUint16(version)
	w.AddUint64(r.Generation)
	var flags uint8
	if r.Complete {
		flags |= flagComplete
	}
	w.AddUint8(flags)
	w.AddUint32LengthPrefixed(func(w *cryptobyte.Builder) { w.AddBytes(r.Manifest) })
	w.AddUint32LengthPrefixed(func(w *cryptobyte.Builder) { w.AddBytes(r.Wrapped) })
	out, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// Parse decodes a record. Every failure wraps [ErrCorrupt].
func Parse(data []byte) (*Record, error) {
	corrupt := func(what string) (*Record, error) { return nil, fmt.Errorf("%w: %s", ErrCorrupt, what) }
	if len(data) > maxRecord || len(data) < sha256.Size {
		return corrupt("size")
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if have := sha256.Sum256(body); !bytes.Equal(have[:], sum) {
		return corrupt("checksum")
	}
	s := cryptobyte.String(body)
	head := make([]byte, len(magic))
	var v uint16
	if !s.CopyBytes(head) || string(head) != magic || !s.ReadUint16(&v) {
		return corrupt("not a record")
	}
	if v != version {
		return corrupt(fmt.Sprintf("version %d is not known", v))
	}
	r := new(Record)
	var flags uint8
	var manifest, wrapped cryptobyte.String
	if !s.ReadUint64(&r.Generation) || !s.ReadUint8(&flags) || flags&^flagComplete != 0 ||
		!read32(&s, &manifest, maxManifest) || !read32(&s, &wrapped, maxWrapped) || !s.Empty() {
		return corrupt("form")
	}
	r.Complete, r.Manifest, r.Wrapped = flags&flagComplete != 0, manifest, wrapped
	return r, nil
}

func read32(s, out *cryptobyte.String, limit uint32) bool {
	var n uint32
	if !s.ReadUint32(&n) || n > limit {
		return false
	}
	return s.ReadBytes((*[]byte)(out), int(n))
}

// Mode is how the wrapped key becomes keys of the kernel. The values are part of
// the file format.
type Mode uint8

// The modes.
const (
	Direct Mode = 1
	Compat Mode = 2
)

// Entry is one protected directory.
type Entry struct {
	Path   string
	Policy fscrypt.Policy
}

// Manifest says which directories are protected, and how.
type Manifest struct {
	Mode Mode
	// Salt makes the keys of this system different from those of another one
	// with the same raw key.
	Salt    [16]byte
	Entries []Entry
}

// Marshal encodes the manifest.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var w cryptobyte.Builder
	w.AddUint8(manifestVersion)
	w.AddUint8(uint8(m.Mode))
	w.AddBytes(m.Salt[:])
	w.AddUint16(uint16(len(m.Entries)))
	for _, e := range m.Entries {
		w.AddUint16LengthPrefixed(func(w *cryptobyte.Builder) { w.AddBytes([]byte(e.Path)) })
		w.AddBytes(e.Policy.Identifier[:])
		w.AddBytes([]byte{e.Policy.Version, e.Policy.Contents, e.Policy.Names, e.Policy.Flags, e.Policy.Log2DataUnit})
	}
	out, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return out, nil
}

// ParseManifest decodes a manifest. Every failure wraps [ErrCorrupt].
func ParseManifest(data []byte) (*Manifest, error) {
	corrupt := fmt.Errorf("%w: manifest", ErrCorrupt)
	if len(data) > maxManifest {
		return nil, corrupt
	}
	s := cryptobyte.String(data)
	var v, mode uint8
	var count uint16
	m := new(Manifest)
	if !s.ReadUint8(&v) || v != manifestVersion || !s.ReadUint8(&mode) || !s.CopyBytes(m.Salt[:]) || !s.ReadUint16(&count) {
		return nil, corrupt
	}
	if count > MaxDirectories {
		return nil, corrupt
	}
	m.Mode = Mode(mode)
	for range count {
		var path cryptobyte.String
		var e Entry
		p := make([]byte, 5)
		if !s.ReadUint16LengthPrefixed(&path) || !s.CopyBytes(e.Policy.Identifier[:]) || !s.CopyBytes(p) {
			return nil, corrupt
		}
		e.Path = string(path)
		e.Policy.Version, e.Policy.Contents, e.Policy.Names, e.Policy.Flags, e.Policy.Log2DataUnit = p[0], p[1], p[2], p[3], p[4]
		m.Entries = append(m.Entries, e)
	}
	if !s.Empty() || m.check() != nil {
		return nil, corrupt
	}
	return m, nil
}

func (m *Manifest) check() error {
	if m.Mode != Direct && m.Mode != Compat {
		return fmt.Errorf("manifest: unknown mode %d", m.Mode)
	}
	paths := make([]string, len(m.Entries))
	for i, e := range m.Entries {
		paths[i] = e.Path
	}
	return CheckPaths(paths)
}

// CheckPaths says what is wrong with a list of directories: each is absolute and
// clean, none is in another, and there is at least one.
func CheckPaths(paths []string) error {
	if len(paths) == 0 || len(paths) > MaxDirectories {
		return fmt.Errorf("%d directories instead of 1 to %d", len(paths), MaxDirectories)
	}
	seen := make(map[string]bool, len(paths))
	for _, p := range paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" || len(p) > MaxPath || strings.ContainsRune(p, 0) {
			return fmt.Errorf("directory %.256q is not an absolute, clean path", p)
		}
		if seen[p] {
			return fmt.Errorf("directory %.256q is there twice", p)
		}
		seen[p] = true
	}
	for _, p := range paths {
		for up := filepath.Dir(p); up != "/"; up = filepath.Dir(up) {
			if seen[up] {
				return fmt.Errorf("directory %.256q is inside of %.256q", p, up)
			}
		}
	}
	return nil
}
