package partial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/durable"
)

// ErrLocked says that another process (or another download in this one) owns
// the partial file.
var ErrLocked = errors.New("the download belongs to another process")

// ErrDamaged says that chunks which an earlier process had verified are no
// longer on the disk as they were signed. They are missing again.
var ErrDamaged = errors.New("the partial file lost verified bytes; they are fetched again")

// SpaceError says that the file system cannot hold the image. It is a local
// condition: no source is to blame and nothing that was fetched is lost.
type SpaceError struct {
	Path      string
	Need      int64 // bytes that are still missing on the disk; 0 when not known
	Available int64
	Err       error
}

func (e *SpaceError) Error() string {
	if e.Need > 0 {
		return fmt.Sprintf("disk full: %q needs %d more bytes, %d are free", filepath.Dir(e.Path), e.Need, e.Available)
	}
	return fmt.Sprintf("disk full or not writable, at %q: %v", e.Path, e.Err)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// Config says which image is wanted and where.
type Config struct {
	Path     string // the final name
	Manifest *repo.Manifest
	List     []byte // the chunk list as it was signed
	Buffers  int    // read buffers; 0 is 24
	Writer   durable.Writer
}

type chunkState uint8

const (
	missing chunkState = iota
	busy
	verified
	synced
)

// work is a chunk that is neither empty nor verified.
type work struct {
	frontier int64 // bytes written and hashed
	h        hash.Hash
	from     []string // who sent them
}

// Image is an image on its way. It is safe for concurrent use.
type Image struct {
	cfg     Config
	digests [][]byte
	f       *os.File
	hint    *os.File
	pool    bufferPool

	mu       sync.Mutex
	state    []chunkState
	works    map[int]*work
	lowest   int // no chunk before it is missing
	verified int
	bytes    int64 // of verified chunks
	durable  int64 // of synced chunks
	rechecks int   // chunks that were hashed again because of a crash
	claimed  []int // chunks that only the journal of an earlier process vouches for
	stale    bool  // the journal on the disk says something else than the truth
	writeErr error
}

// Names of the files that stand beside the final name.
func partName(path string) string     { return path + ".part" }
func journalName(path string) string  { return path + ".part.journal" }
func hintName(path string) string     { return path + ".part.hint" }
func passportName(path string) string { return path + PassportSuffix }

// PassportSuffix ends the name of the file beside an image that tells what the
// image is.
const PassportSuffix = ".mooring"

// Open takes the partial file of an image over, or begins it. When the final
// file is already there and whole, the image is complete at once.
func Open(cfg Config) (*Image, error) {
	digests, err := cfg.Manifest.ParseChunkList(cfg.List)
	if err != nil {
		return nil, err
	}
	im := &Image{
		cfg: cfg, digests: digests, pool: newBufferPool(cfg.Buffers),
		state: make([]chunkState, cfg.Manifest.Count()), works: map[int]*work{},
	}
	fresh, err := im.own()
	if err != nil {
		return nil, err
	}
	if err := im.load(fresh); err != nil {
		im.Close()
		return nil, err
	}
	return im, nil
}

// own opens and locks the partial file.
func (im *Image) own() (fresh bool, err error) {
	name := partName(im.cfg.Path)
	for range 10 {
		_, statErr := os.Stat(name)
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return false, fmt.Errorf("partial: %w", LocalError(name, err))
		}
		if err := Lock(f); err != nil {
			_ = f.Close()
			return false, fmt.Errorf("partial: %q: %w", im.cfg.Path, err)
		}
		// The former owner may have finished between open and lock, and the
		// file is then no longer the partial one.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			im.f = f
			return os.IsNotExist(statErr), nil
		}
		_ = f.Close()
	}
	return false, fmt.Errorf("partial: %q: %w", im.cfg.Path, ErrLocked)
}

// load finds out what is there already.
func (im *Image) load(fresh bool) error {
	size := im.cfg.Manifest.Size
	if fresh {
		if whole, err := im.adopt(); err != nil || whole {
			return err
		}
	}
	var err error
	if im.hint, err = os.OpenFile(hintName(im.cfg.Path), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("partial: %w", LocalError(im.cfg.Path, err))
	}
	info, err := im.f.Stat()
	if err != nil {
		return fmt.Errorf("partial: %w", err)
	}
	// A journal may be that of another file: the partial file was removed, cut or
	// taken for another image. What it claims must be gone from the disk before
	// the file grows, because its claims would look true then.
	im.stale = true
	if !fresh {
		im.stale = !im.restore(min(info.Size(), size))
	}
	if im.stale {
		// Hints about another file only make chunks bad.
		if err := im.hint.Truncate(0); err != nil {
			return fmt.Errorf("partial: %w", LocalError(im.cfg.Path, err))
		}
	}
	if err := im.Checkpoint(); err != nil {
		return err
	}
	if info.Size() > size {
		if err := im.f.Truncate(size); err != nil {
			return fmt.Errorf("partial: %w", err)
		}
	}
	pass := Passport{Envelope: im.cfg.Manifest.Envelope(), List: im.cfg.List}.encode()
	if old, err := os.ReadFile(passportName(im.cfg.Path)); err != nil || !bytes.Equal(old, pass) {
		if err := im.cfg.Writer.WriteFile(passportName(im.cfg.Path), pass, 0o644); err != nil {
			return LocalError(im.cfg.Path, err)
		}
	}
	return reserve(im.f, im.cfg.Path, size)
}

// adopt takes a finished file that has the right bytes.
func (im *Image) adopt() (bool, error) {
	f, err := os.Open(im.cfg.Path)
	if err != nil {
		return false, nil // what cannot be read is not the image; it is replaced at the end
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != im.cfg.Manifest.Size {
		return false, nil
	}
	if ok, _ := im.hashChunk(f, 0, -1); !ok {
		return false, nil
	}
	im.recheck(f, im.all())
	if im.verified < len(im.state) {
		im.reset()
		return false, nil
	}
	im.durable = im.bytes
	return true, im.dropPartial()
}

// restore reads journal and hints. Without a journal that fits, every chunk is
// hashed: bytes that were paid for once are not thrown away. It reports whether
// the journal is of this image and every claim in it was taken over.
func (im *Image) restore(have int64) bool {
	m := im.cfg.Manifest
	j, err := readJournal(im.cfg.Path)
	if err != nil || j.Identity != m.Identity() || len(j.Chunks) != m.Count() {
		im.recheck(im.f, im.all())
		return false
	}
	agrees := true
	hints := im.readHints()
	var again []candidate
	for i, claimed := range j.Chunks {
		off, n := m.ChunkRange(i)
		switch {
		case off+n > have:
			// The file is shorter than its journal: the file is right.
			agrees = agrees && !claimed
		case claimed:
			im.state[i] = synced
			im.count(i)
			im.durable += n
			im.claimed = append(im.claimed, i)
		case hints[i] > 0:
			again = append(again, candidate{i, min(int64(hints[i]), n)})
		}
	}
	im.recheck(im.f, again)
	return agrees
}

// candidate is a chunk of which the first n bytes may be right.
type candidate struct {
	chunk int
	n     int64
}

func (im *Image) all() []candidate {
	out := make([]candidate, len(im.state))
	for i := range out {
		_, n := im.cfg.Manifest.ChunkRange(i)
		out[i] = candidate{i, n}
	}
	return out
}

func (im *Image) reset() {
	im.state = make([]chunkState, len(im.state))
	im.works = map[int]*work{}
	im.lowest, im.verified, im.bytes, im.durable, im.rechecks = 0, 0, 0, 0, 0
}

// count books a verified chunk. The caller holds the lock or is alone.
func (im *Image) count(i int) {
	_, n := im.cfg.Manifest.ChunkRange(i)
	im.verified++
	im.bytes += n
}

// Progress is a snapshot in bytes.
type Progress struct {
	Verified, Durable int64
	Rechecked         int // chunks hashed again when the file was opened
}

// Progress returns how far the image is.
func (im *Image) Progress() Progress {
	im.mu.Lock()
	defer im.mu.Unlock()
	return Progress{im.bytes, im.durable, im.rechecks}
}

// Identity returns the identity of the image.
func (im *Image) Identity() repo.Digest { return im.cfg.Manifest.Identity() }

// Complete reports whether every chunk is verified.
func (im *Image) Complete() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.verified == len(im.state)
}

// Wants reports whether a chunk is missing that have says is to be had.
func (im *Image) Wants(have func(int) bool) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	for i := im.lowest; i < len(im.state); i++ {
		if im.state[i] == missing && have(i) {
			return true
		}
	}
	return false
}

// Lacks reports whether a chunk is not verified yet that have says is to be had,
// whoever fetches it at the moment.
func (im *Image) Lacks(have func(int) bool) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	for i := im.lowest; i < len(im.state); i++ {
		if im.state[i] < verified && have(i) {
			return true
		}
	}
	return false
}

// Err returns the first local error, after which nothing more is written.
func (im *Image) Err() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.writeErr
}

// Checkpoint makes durable what is verified, and says so in the journal. It
// blocks no reader and no writer. One call at a time.
func (im *Image) Checkpoint() error {
	im.mu.Lock()
	if im.f == nil {
		im.mu.Unlock()
		return nil
	}
	stale := im.stale
	j := Journal{Identity: im.cfg.Manifest.Identity(), Chunks: make([]bool, len(im.state))}
	var fresh []int
	for i, s := range im.state {
		if s == verified {
			fresh = append(fresh, i)
		}
		j.Chunks[i] = s >= verified
	}
	im.mu.Unlock()
	if _, err := os.Stat(journalName(im.cfg.Path)); err == nil && len(fresh) == 0 && !stale {
		return nil
	}
	if len(fresh) > 0 {
		if err := datasync(im.f); err != nil {
			return fmt.Errorf("partial: sync %q: %w", im.cfg.Path, LocalError(im.cfg.Path, err))
		}
	}
	if err := im.cfg.Writer.WriteFile(journalName(im.cfg.Path), j.encode(), 0o600); err != nil {
		return LocalError(im.cfg.Path, err)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.stale = false
	for _, i := range fresh {
		im.state[i] = synced
		_, n := im.cfg.Manifest.ChunkRange(i)
		im.durable += n
	}
	return nil
}

// Finish gives the image its final name. Every step can be repeated after a
// crash. The image must be complete. What only the journal of an earlier process
// vouches for is hashed first; on [ErrDamaged] there is more to fetch.
func (im *Image) Finish(ctx context.Context) error {
	if !im.Complete() {
		return fmt.Errorf("partial: %q is not complete", im.cfg.Path)
	}
	if im.f == nil {
		return nil // it had its name already
	}
	if err := im.confirm(ctx); err != nil {
		return err
	}
	if err := im.Checkpoint(); err != nil {
		return err
	}
	if err := im.f.Chmod(0o644); err != nil {
		return fmt.Errorf("partial: %w", err)
	}
	if err := im.f.Sync(); err != nil {
		return fmt.Errorf("partial: sync %q: %w", im.cfg.Path, LocalError(im.cfg.Path, err))
	}
	if err := im.cfg.Writer.Rename(partName(im.cfg.Path), im.cfg.Path); err != nil {
		return err
	}
	if err := im.cfg.Writer.Remove(journalName(im.cfg.Path)); err != nil {
		return err
	}
	return im.cfg.Writer.Remove(hintName(im.cfg.Path))
}

// dropPartial removes what stands beside a file that was found complete.
func (im *Image) dropPartial() error {
	for _, name := range []string{partName(im.cfg.Path), journalName(im.cfg.Path), hintName(im.cfg.Path)} {
		if err := im.cfg.Writer.Remove(name); err != nil {
			return err
		}
	}
	pass := Passport{Envelope: im.cfg.Manifest.Envelope(), List: im.cfg.List}.encode()
	if err := im.cfg.Writer.WriteFile(passportName(im.cfg.Path), pass, 0o644); err != nil {
		return LocalError(im.cfg.Path, err)
	}
	err := im.f.Close()
	im.f = nil
	return err
}

// Close gives the partial file back. No sink may be open.
func (im *Image) Close() error {
	var errs []error
	if im.f != nil {
		errs = append(errs, im.f.Close())
	}
	if im.hint != nil {
		errs = append(errs, im.hint.Close())
	}
	return errors.Join(errs...)
}

func (im *Image) fail(err error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.writeErr == nil {
		im.writeErr = LocalError(im.cfg.Path, err)
	}
}

func addName(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}
