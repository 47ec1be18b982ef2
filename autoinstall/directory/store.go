package directory

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/durable"
)

// Version is one certificate that is or was published.
type Version struct {
	// Certificate is in DER.
	Certificate []byte `json:"certificate"`
	// SHA256 is of Certificate, KeySHA256 of its public key (the
	// SubjectPublicKeyInfo), both in lower-case hex.
	SHA256    string `json:"sha256"`
	KeySHA256 string `json:"key_sha256"`
	// Wrapped says that a raw key was sent and the directory made the
	// certificate.
	Wrapped bool `json:"wrapped,omitempty"`
	// Time is when it was published, By the name of the token.
	Time time.Time `json:"time"`
	By   string    `json:"by"`
	// Replaces is the SHA256 of the version before, Reason why.
	Replaces string `json:"replaces,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Record is everything about one serial number, the version in force last.
type Record struct {
	Serial   string    `json:"serial"`
	Versions []Version `json:"versions"`
}

// Current returns the version in force.
func (r *Record) Current() Version { return r.Versions[len(r.Versions)-1] }

// Store keeps records in a folder, one file each. It is safe for concurrent
// use; one process has it open at a time.
type Store struct {
	dir  string
	disk durable.Writer
	mu   sync.RWMutex
	lock io.Closer
}

// OpenStore opens the store in dir, which is made when it is not there. What a
// crash has left half written is removed.
func OpenStore(dir string) (*Store, error) { return openStore(dir, durable.Writer{}) }

func openStore(dir string, disk durable.Writer) (*Store, error) {
	s := &Store{dir: dir, disk: disk}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("directory: open the store %q: %w", dir, err)
	}
	s.lock = lock
	if err := s.sweep(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("directory: open the store %q: %w", dir, err)
	}
	return s, nil
}

// sweep removes the temporary files that a crash has left. The lock is held, so
// nobody writes.
func (s *Store) sweep() error {
	for _, kind := range []string{"certificates", "keys"} {
		folders, err := os.ReadDir(filepath.Join(s.dir, kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, f := range folders {
			if !f.IsDir() {
				continue
			}
			if err := s.disk.Sweep(filepath.Join(s.dir, kind, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close lets another process open the store.
func (s *Store) Close() error { return s.lock.Close() }

// path spreads files over 256 folders. The name is a hash, so that serial
// numbers which differ in case only don't meet on any file system.
func (s *Store) path(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(s.dir, kind, name[:2], name+".json")
}

// Lookup returns the record of a serial number, or ErrNotFound.
func (s *Store) Lookup(ctx context.Context, serial string) (*Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lookup(ctx, serial)
}

func (s *Store) lookup(ctx context.Context, serial string) (*Record, error) {
	if err := autoinstall.CheckSerial(serial); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var r Record
	if err := readJSON(s.path("certificates", serial), &r); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNotFound
		}
		return nil, fmt.Errorf("directory: record of %q: %w", serial, err)
	}
	if r.Serial != serial || len(r.Versions) == 0 {
		return nil, fmt.Errorf("directory: record of %q is damaged", serial)
	}
	return &r, nil
}

// Put publishes v for a serial number. published is false when v is in force
// already. Without v.Replaces nothing may be published yet (ErrPublished); with
// it, it has to be the SHA256 of the version in force (ErrStale). With uniqueKey
// a key that stands under another serial number is refused (ErrKeyInUse).
func (s *Store) Put(ctx context.Context, serial string, v Version, uniqueKey bool) (current Version, published bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.lookup(ctx, serial)
	switch {
	case errors.Is(err, ErrNotFound):
		r = &Record{Serial: serial}
		if v.Replaces != "" {
			return Version{}, false, ErrStale
		}
	case err != nil:
		return Version{}, false, err
	default:
		now := r.Current()
		// The wrapping of a key is ours and differs each time.
		if now.SHA256 == v.SHA256 || now.Wrapped && v.Wrapped && now.KeySHA256 == v.KeySHA256 {
			return now, false, nil
		}
		if v.Replaces == "" {
			return now, false, ErrPublished
		}
		if v.Replaces != now.SHA256 {
			return now, false, ErrStale
		}
		if len(r.Versions) == maxVersions {
			return now, false, fmt.Errorf("%w: it was replaced %d times", ErrRefused, maxVersions)
		}
	}
	if err := s.claimKey(ctx, serial, v.KeySHA256, uniqueKey); err != nil {
		return Version{}, false, err
	}
	r.Versions = append(r.Versions, v)
	if err := s.write(s.path("certificates", serial), r); err != nil {
		return Version{}, false, err
	}
	return v, true, nil
}

// claim says whose a public key is.
type claim struct {
	Serial string `json:"serial"`
}

// claimKey is called before the record is written. A claim without a record
// that bears it out is left from a crash and counts for nothing.
func (s *Store) claimKey(ctx context.Context, serial, key string, unique bool) error {
	path := s.path("keys", key)
	var c claim
	err := readJSON(path, &c)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("directory: claim of a key: %w", err)
	case c.Serial == serial:
		return nil
	default:
		r, err := s.lookup(ctx, c.Serial)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil {
			for _, v := range r.Versions {
				if v.KeySHA256 == key && !unique {
					return nil // The first one keeps the claim.
				}
				if v.KeySHA256 == key {
					return fmt.Errorf("%w: %q", ErrKeyInUse, c.Serial)
				}
			}
		}
	}
	return s.write(path, claim{serial})
}

func (s *Store) write(path string, v any) error {
	if err := s.disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("directory: encode: %w", err)
	}
	return s.disk.WriteFile(path, b, 0o600)
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return errors.New("the file is too large")
	}
	return json.Unmarshal(b, v)
}

// fingerprints fills the hashes of a certificate.
func (v *Version) fingerprints(cert *x509.Certificate) {
	cs, ks := sha256.Sum256(cert.Raw), sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	v.Certificate, v.SHA256, v.KeySHA256 = cert.Raw, hex.EncodeToString(cs[:]), hex.EncodeToString(ks[:])
}
