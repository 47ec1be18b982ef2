package partial

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/mooringlib/mooring/download/repo"
)

// recheck hashes chunks that may be there, on all cores. A chunk that is whole
// and right is verified; of another the hash goes on from where it stopped.
func (im *Image) recheck(f io.ReaderAt, list []candidate) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) {
		wg.Go(func() {
			for {
				k := int(next.Add(1)) - 1
				if k >= len(list) {
					return
				}
				c := list[k]
				ok, h := im.hashChunk(f, c.chunk, c.n)
				_, n := im.cfg.Manifest.ChunkRange(c.chunk)
				im.mu.Lock()
				im.rechecks++
				switch {
				case ok:
					im.state[c.chunk] = verified
					im.count(c.chunk)
				case h != nil && c.n < n:
					im.works[c.chunk] = &work{frontier: c.n, h: h, from: []string{"the partial file"}}
				}
				im.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// confirm hashes what was not verified by this process: the last defence against
// a disk, or an operator, that changed the partial file behind its journal.
func (im *Image) confirm(ctx context.Context) error {
	if len(im.claimed) == 0 {
		return nil
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []int
	for range min(runtime.GOMAXPROCS(0), len(im.claimed)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= len(im.claimed) {
					return
				}
				if ok, _ := im.hashChunk(im.f, im.claimed[k], -1); !ok {
					mu.Lock()
					bad = append(bad, im.claimed[k])
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	im.claimed = nil
	if len(bad) == 0 {
		return nil
	}
	im.mu.Lock()
	for _, i := range bad {
		_, n := im.cfg.Manifest.ChunkRange(i)
		im.state[i] = missing
		im.lowest = min(im.lowest, i)
		im.verified--
		im.bytes -= n
		im.durable -= n
	}
	im.stale = true
	im.mu.Unlock()
	for _, i := range bad {
		im.writeHint(i, 0)
	}
	if err := im.Checkpoint(); err != nil {
		return err
	}
	return fmt.Errorf("partial: %q: %d chunks: %w", im.cfg.Path, len(bad), ErrDamaged)
}

// hashChunk hashes the first n bytes of a chunk, all of it when n is negative.
// ok says that the chunk is whole and right.
func (im *Image) hashChunk(f io.ReaderAt, chunk int, n int64) (ok bool, h hash.Hash) {
	off, size := im.cfg.Manifest.ChunkRange(chunk)
	if n < 0 {
		n = size
	}
	h = im.cfg.Manifest.Chunks.Algorithm.New()
	b := im.pool.get()
	defer im.pool.put(b)
	if copied, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(f, off, n)}, b); err != nil || copied != n {
		return false, nil
	}
	return n == size && bytes.Equal(h.Sum(nil), im.digests[chunk]), h
}

// readHints returns how far each chunk was written, as far as anybody knows.
func (im *Image) readHints() []uint32 {
	out := make([]uint32, len(im.state))
	data := make([]byte, 4*len(out))
	n, _ := im.hint.ReadAt(data, 0)
	for i := range n / 4 {
		out[i] = binary.BigEndian.Uint32(data[4*i:])
	}
	return out
}

func (im *Image) writeHint(chunk int, frontier int64) {
	if im.hint == nil {
		return
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(frontier))
	// A hint that is lost costs a part of one chunk, never correctness.
	_, _ = im.hint.WriteAt(b[:], 4*int64(chunk))
}

func readJournal(path string) (Journal, error) {
	data, err := readBounded(journalName(path), maxJournalBytes)
	if err != nil {
		return Journal{}, err
	}
	return ParseJournal(data)
}

// StoredList returns the chunk list of an image from the passport at path.
func StoredList(path string, m *repo.Manifest) ([]byte, error) {
	data, err := readBounded(passportName(path), maxPassportBytes)
	if err != nil {
		return nil, err
	}
	p, err := ParsePassport(data)
	if err != nil {
		return nil, err
	}
	_, err = m.ParseChunkList(p.List)
	return p.List, err
}

// Held is what a node holds of an image, for serving it.
type Held struct {
	Manifest *repo.Manifest
	List     []byte
	File     string // where the bytes are now
	State    repo.State
	Have     repo.Ranges // when State is not complete
}

// Identified is what a passport says.
type Identified struct {
	Manifest *repo.Manifest
	List     []byte
}

// Identify reads the passport of an image and checks its chunk list.
func Identify(path string) (Identified, error) {
	data, err := readBounded(passportName(path), maxPassportBytes)
	if err != nil {
		return Identified{}, err
	}
	p, err := ParsePassport(data)
	if err != nil {
		return Identified{}, err
	}
	m, err := repo.Peek(p.Envelope)
	if err != nil {
		return Identified{}, err
	}
	if _, err := m.ParseChunkList(p.List); err != nil {
		return Identified{}, err
	}
	return Identified{m, p.List}, nil
}

// ReadHeld looks at an image without disturbing its download. Only what the
// journal calls durable is reported.
func ReadHeld(path string, id Identified) (*Held, error) {
	m := id.Manifest
	h := &Held{Manifest: m, List: id.List, State: repo.StateStopped}
	if part, err := os.Open(partName(path)); err == nil {
		defer part.Close()
		h.File = partName(path)
		if Locked(part) {
			h.State = repo.StateDownloading
		}
		if j, err := readJournal(path); err == nil && j.Identity == m.Identity() && len(j.Chunks) == m.Count() {
			info, err := part.Stat()
			for i := range j.Chunks {
				// The file may have been cut or begun anew since.
				off, n := m.ChunkRange(i)
				j.Chunks[i] = j.Chunks[i] && err == nil && off+n <= info.Size()
			}
			h.Have = toRanges(j.Chunks)
		}
		return h, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() != m.Size {
		return nil, errors.New("partial: the file is not the image of its passport")
	}
	h.File, h.State = path, repo.StateComplete
	return h, nil
}

func toRanges(set []bool) repo.Ranges {
	var out repo.Ranges
	for i, on := range set {
		switch {
		case !on:
		case len(out) > 0 && out[len(out)-1][1] == i:
			out[len(out)-1][1] = i + 1
		default:
			out = append(out, [2]int{i, i + 1})
		}
	}
	return out
}

func readBounded(name string, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = errors.New("partial: file is too large")
	}
	return data, err
}

// LocalError turns what a full, over-quota or read-only file system says into
// the error that callers look for.
func LocalError(path string, err error) error {
	var space *SpaceError
	if errors.As(err, &space) {
		return err
	}
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EFBIG} {
		if errors.Is(err, e) {
			return &SpaceError{Path: path, Err: err}
		}
	}
	return err
}
