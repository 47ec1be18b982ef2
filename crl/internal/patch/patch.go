// Package patch describes a file as a change to another one. FORMAT.md has the
// format. It finds what stayed the same anywhere in the old file, so that a
// list with a hundred new entries costs about those entries.
package patch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

const (
	magic = "MOORPAT1"
	// HeaderSize is the size of what stands before the steps.
	HeaderSize = len(magic) + 8 + 32
	minBlock   = 64
	// maxBlocks bounds the table of the old file's blocks.
	maxBlocks = 1 << 16
	prime     = 0x9e3779b97f4a7c15
)

// Make writes a patch that makes after, whose identity is id, from before.
func Make(w io.Writer, before, after []byte, id [32]byte) error {
	m := &maker{w: bufio.NewWriter(w), before: before, after: after}
	head := make([]byte, 0, HeaderSize)
	head = append(head, magic...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(after)))
	head = append(head, id[:]...)
	if _, err := m.w.Write(head); err != nil {
		return err
	}
	m.run()
	return m.w.Flush()
}

type maker struct {
	w             *bufio.Writer
	before, after []byte
	size          int // of a block
	table         map[uint64]uint32
	done          int // bytes of after that are described
	end           int // where the last copy ended in before
}

func (m *maker) run() {
	m.size = minBlock
	if want := len(m.before) / maxBlocks; want > m.size {
		m.size = 1 << bits.Len(uint(want))
	}
	m.table = make(map[uint64]uint32, len(m.before)/m.size+1)
	for at := 0; at+m.size <= len(m.before); at += m.size {
		h := hash(m.before[at : at+m.size])
		if _, ok := m.table[h]; !ok {
			m.table[h] = uint32(at / m.size)
		}
	}
	at := m.copy(0, 0)
	var pow uint64 = 1
	for range m.size - 1 {
		pow *= prime
	}
	var h uint64
	fresh := true
	for at+m.size <= len(m.after) {
		if fresh {
			h, fresh = hash(m.after[at:at+m.size]), false
		}
		if block, ok := m.table[h]; ok {
			from := int(block) * m.size
			if bytes.Equal(m.before[from:from+m.size], m.after[at:at+m.size]) {
				// What stands before may be the same too.
				for at > m.done && from > 0 && m.after[at-1] == m.before[from-1] {
					at, from = at-1, from-1
				}
				at = m.copy(at, from)
				fresh = true
				continue
			}
		}
		if at+m.size == len(m.after) {
			break
		}
		h = (h-uint64(m.after[at])*pow)*prime + uint64(m.after[at+m.size])
		at++
	}
	if m.done < len(m.after) {
		m.step(m.after[m.done:], 0, 0)
	}
}

func hash(b []byte) (h uint64) {
	for _, c := range b {
		h = h*prime + uint64(c)
	}
	return h
}

// copy describes that after[at:] is before[from:] for as long as they agree,
// and returns where they stop.
func (m *maker) copy(at, from int) int {
	n := common(m.after[at:], m.before[from:])
	if n == 0 {
		return at
	}
	m.step(m.after[m.done:at], n, from)
	m.done, m.end = at+n, from+n
	return at + n
}

func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for i+64 <= n && bytes.Equal(a[i:i+64], b[i:i+64]) {
		i += 64
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// step writes one step. Errors stay in the writer until Flush.
func (m *maker) step(literal []byte, n, from int) {
	b := binary.AppendUvarint(nil, uint64(len(literal)))
	b = binary.AppendUvarint(b, uint64(n))
	_, _ = m.w.Write(b)
	_, _ = m.w.Write(literal)
	if n > 0 {
		_, _ = m.w.Write(binary.AppendVarint(nil, int64(from-m.end)))
	}
}

// Reader gives the new file. It holds one step at a time and never a file.
type Reader struct {
	// ID is the identity that the patch promises; the caller compares.
	ID [32]byte
	// Size is the length of the new file.
	Size int64

	in      *bufio.Reader
	before  io.ReaderAt
	left    int64 // of the new file
	literal int64
	copies  int64
	pending bool // the offset of the copy is still to be read
	from    int64
	end     int64
}

var errPatch = errors.New("patch is malformed")

// NewReader begins to apply a patch to before. A file longer than limit is
// refused.
func NewReader(in io.Reader, before io.ReaderAt, limit int64) (*Reader, error) {
	r := &Reader{in: bufio.NewReader(in), before: before}
	head := make([]byte, HeaderSize)
	if _, err := io.ReadFull(r.in, head); err != nil || string(head[:len(magic)]) != magic {
		return nil, errPatch
	}
	size := binary.LittleEndian.Uint64(head[len(magic):])
	if size > uint64(limit) {
		return nil, fmt.Errorf("patch makes %d bytes, more than the limit of %d", size, limit)
	}
	r.Size, r.left = int64(size), int64(size)
	copy(r.ID[:], head[len(magic)+8:])
	return r, nil
}

func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.literal == 0 && r.copies == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	var n int
	var err error
	if r.literal > 0 {
		n, err = io.ReadFull(r.in, p[:min(int64(len(p)), r.literal)])
		r.literal -= int64(n)
	} else {
		if r.pending {
			d, err := binary.ReadVarint(r.in)
			if err != nil {
				return 0, errPatch
			}
			r.pending = false
			if r.from = r.end + d; r.from < 0 {
				return 0, errPatch
			}
			r.end = r.from + r.copies
		}
		n, err = r.before.ReadAt(p[:min(int64(len(p)), r.copies)], r.from)
		r.from += int64(n)
		r.copies -= int64(n)
		if n > 0 && errors.Is(err, io.EOF) {
			err = nil
		}
	}
	r.left -= int64(n)
	if err != nil {
		return n, errPatch
	}
	return n, nil
}

func (r *Reader) next() error {
	literal, err := binary.ReadUvarint(r.in)
	if err != nil {
		return errPatch
	}
	copies, err := binary.ReadUvarint(r.in)
	if err != nil || literal > uint64(r.left) || copies > uint64(r.left)-literal || literal+copies == 0 {
		return errPatch
	}
	r.literal, r.copies, r.pending = int64(literal), int64(copies), copies > 0
	return nil
}
