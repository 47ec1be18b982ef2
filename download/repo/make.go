package repo

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring/internal/durable"
)

// MakeConfig says how a repository is made.
type MakeConfig struct {
	// Dir is the repository's folder. It is made when it is missing.
	Dir string
	// Key signs: Ed25519 or ECDSA P-256.
	Key crypto.Signer
	// Algorithm of the chunk digests; default SHA256.
	Algorithm Algorithm
	// ChunkSize in bytes; default by the image's size, see [DefaultChunkSize].
	ChunkSize int64
	// Validity is how long the manifests are good for; default 365 days.
	Validity time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time

	writer durable.Writer
}

// DefaultChunkSize is 256 KiB up to 64 MiB of image, 512 KiB up to 512 MiB, 1
// MiB up to 16 GiB, and twice as much for each doubling after that.
func DefaultChunkSize(size int64) int64 {
	switch {
	case size <= 64<<20:
		return 256 << 10
	case size <= 512<<20:
		return 512 << 10
	}
	c := int64(1 << 20)
	for c < maxChunkSize && size/c > 16384 {
		c *= 2
	}
	return c
}

// VersionOf returns the version that an image file stands for: its name without
// the last extension.
func VersionOf(image string) (string, error) {
	name := filepath.Base(image)
	v := strings.TrimSuffix(name, filepath.Ext(name))
	if !plainName(name, maxNameBytes) {
		return "", fmt.Errorf("repo: image %.120q: want a file name of A-Z a-z 0-9 . _ + ~ - that begins with a letter or a digit", name)
	}
	return v, CheckVersion(v)
}

// Make adds images to the repository in cfg.Dir, or replaces the images of the
// same version, and returns the manifests that it signed. The index is replaced
// last and atomically, so a client sees the repository as it was or as it is.
// One Make at a time may work on a folder.
func Make(ctx context.Context, cfg MakeConfig, images ...string) ([]*Manifest, error) {
	if err := cfg.fill(images); err != nil {
		return nil, err
	}
	if err := cfg.writer.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := cfg.writer.Sweep(cfg.Dir); err != nil {
		return nil, err
	}
	index, known, err := readIndex(cfg.Dir)
	if err != nil {
		return nil, err
	}
	var made []*Manifest
	var outdated []string
	for _, image := range images {
		version, err := VersionOf(image)
		if err != nil {
			return nil, err
		}
		old, at := known[version], -1
		if old != nil {
			at = old.at
		}
		m, err := cfg.add(ctx, image, version, old)
		if err != nil {
			return nil, err
		}
		entry := Entry{Envelope: m.Envelope()}
		if at >= 0 {
			index.Images[at] = entry
			if old.path != m.Path() {
				outdated = append(outdated, old.path)
			}
		} else {
			index.Images = append(index.Images, entry)
		}
		made = append(made, m)
	}
	data, err := index.Encode()
	if err != nil {
		return nil, err
	}
	if err := cfg.writer.WriteFile(filepath.Join(cfg.Dir, IndexPath), data, 0o644); err != nil {
		return nil, err
	}
	for _, p := range outdated {
		// Space is given back only after the index names the new image.
		if err := os.RemoveAll(filepath.Join(cfg.Dir, filepath.FromSlash(path.Dir(p)))); err != nil {
			return made, fmt.Errorf("repo: removing a replaced image: %w", err)
		}
	}
	return made, nil
}

func (cfg *MakeConfig) fill(images []string) error {
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("repo: no directory is given"))
	}
	if cfg.Key == nil {
		errs = append(errs, errors.New("repo: no signing key is given"))
	} else if _, err := keyID(cfg.Key.Public()); err != nil {
		errs = append(errs, fmt.Errorf("repo: signing key: %w", err))
	}
	if cfg.Algorithm == "" {
		cfg.Algorithm = SHA256
	}
	if !cfg.Algorithm.valid() {
		errs = append(errs, fmt.Errorf("repo: chunk algorithm %.40q: want %q or %q", string(cfg.Algorithm), SHA256, SHA512_256))
	}
	if cfg.ChunkSize != 0 && (cfg.ChunkSize < minChunkSize || cfg.ChunkSize > maxChunkSize) {
		errs = append(errs, fmt.Errorf("repo: chunk size %d: want %d to %d", cfg.ChunkSize, minChunkSize, maxChunkSize))
	}
	if cfg.Validity == 0 {
		cfg.Validity = 365 * 24 * time.Hour
	}
	if cfg.Validity < 0 {
		errs = append(errs, fmt.Errorf("repo: validity %s is negative", cfg.Validity))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(images) == 0 {
		errs = append(errs, errors.New("repo: no image is given"))
	}
	seen := map[string]string{}
	for _, image := range images {
		v, err := VersionOf(image)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other, dup := seen[v]; dup {
			errs = append(errs, fmt.Errorf("repo: %.120q and %.120q are both version %q", other, image, v))
		}
		seen[v] = image
	}
	return errors.Join(errs...)
}

// earlier is what an existing index says of a version. Its signature is not
// checked: it only sets a floor for the counter.
type earlier struct {
	at      int
	counter uint64
	path    string
}

func readIndex(dir string) (*Index, map[string]*earlier, error) {
	known := map[string]*earlier{}
	data, err := os.ReadFile(filepath.Join(dir, IndexPath))
	if errors.Is(err, fs.ErrNotExist) {
		return &Index{}, known, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("repo: %w", err)
	}
	index, err := ParseIndex(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (in %q: move it away to begin a new repository)", err, dir)
	}
	for i, e := range index.Images {
		m, err := Peek(e.Envelope)
		if err != nil {
			return nil, nil, fmt.Errorf("image %d of the index in %q: %w", i+1, dir, err)
		}
		known[m.Version] = &earlier{at: i, counter: m.Counter, path: m.Path()}
	}
	return index, known, nil
}

// add copies the image into place, hashing it on the way, and signs.
func (cfg *MakeConfig) add(ctx context.Context, image, version string, old *earlier) (*Manifest, error) {
	src, err := os.Open(image)
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("repo: image %q: want a regular file that is not empty", image)
	}
	now := cfg.Now().UTC().Truncate(time.Second)
	m := &Manifest{
		Version: version, File: filepath.Base(image), Size: info.Size(),
		Chunks:  ChunkInfo{Algorithm: cfg.Algorithm, Size: cfg.ChunkSize},
		Counter: uint64(max(cfg.Now().UnixMilli(), 1)), Created: now, Expires: now.Add(cfg.Validity),
	}
	if m.Chunks.Size == 0 {
		m.Chunks.Size = DefaultChunkSize(m.Size)
	}
	// Milliseconds since 1970 make the counter grow even when the repository
	// was made anew somewhere else; the old counter does when a clock goes back.
	if old != nil && m.Counter <= old.counter {
		m.Counter = old.counter + 1
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	incoming := filepath.Join(cfg.Dir, ".incoming-"+m.File)
	dst, err := cfg.writer.Create(incoming, 0o644)
	if err != nil {
		return nil, err
	}
	defer dst.Abort()
	list, whole, err := hashCopy(ctx, dst, src, m)
	if err != nil {
		return nil, fmt.Errorf("repo: image %q: %w", image, err)
	}
	m.SHA256, m.Chunks.List = whole, sha256.Sum256(list)
	// The folder is named by the digest, which is known only now.
	target := filepath.Join(cfg.Dir, filepath.FromSlash(m.Path()))
	if err := cfg.writer.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return nil, err
	}
	if err := dst.Commit(); err != nil {
		return nil, err
	}
	if err := cfg.writer.Rename(incoming, target); err != nil {
		return nil, err
	}
	if err := cfg.writer.WriteFile(target+".chunks", list, 0o644); err != nil {
		return nil, err
	}
	return m, m.sign(cfg.Key)
}

// hashCopy reads the image once. The whole-file digest runs in its own
// goroutine beside the chunk digests.
func hashCopy(ctx context.Context, dst io.Writer, src io.Reader, m *Manifest) ([]byte, Digest, error) {
	whole := sha256.New()
	var chunk hash.Hash = m.Chunks.Algorithm.New()
	list := make([]byte, 0, m.Count()*DigestSize)
	buf := make([]byte, m.Chunks.Size)
	for i := range m.Count() {
		if err := ctx.Err(); err != nil {
			return nil, Digest{}, err
		}
		_, n := m.ChunkRange(i)
		if _, err := io.ReadFull(src, buf[:n]); err != nil {
			return nil, Digest{}, fmt.Errorf("it became shorter while it was read: %w", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { whole.Write(buf[:n]) })
		chunk.Reset()
		chunk.Write(buf[:n])
		list = chunk.Sum(list)
		_, err := dst.Write(buf[:n])
		wg.Wait()
		if err != nil {
			return nil, Digest{}, err
		}
	}
	if n, _ := src.Read(buf[:1]); n != 0 {
		return nil, Digest{}, errors.New("it grew while it was read")
	}
	return list, Digest(whole.Sum(nil)), nil
}
