package master

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"runtime"
	"time"

	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/internal/durable"
)

// Input is one list of a new master list: either new entries, or those of
// another open master list.
type Input struct {
	Meta Meta
	// Entries are new entries.
	Entries *list.Parsed
	// From and Position say where the entries are when there are no new ones.
	From     *File
	Position int
}

// Write replaces the master list at path and opens the new one.
func Write(w durable.Writer, path string, generation uint64, now time.Time, inputs []Input) (*File, error) {
	f, err := w.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	out := &writer{w: bufio.NewWriterSize(f, 256<<10), h: sha256.New()}
	if err := out.all(generation, now, inputs); err != nil {
		return nil, err
	}
	if err := f.Commit(); err != nil {
		return nil, err
	}
	// What was written was hashed on its way; it is not read again.
	return open(path, false)
}

// writer writes from front to back and hashes what it writes.
type writer struct {
	w    *bufio.Writer
	h    hash.Hash
	off  int64
	rows [][]byte
	err  error
}

func (w *writer) write(b []byte) {
	if w.err != nil {
		return
	}
	w.h.Write(b)
	_, w.err = w.w.Write(b)
	w.off += int64(len(b))
}

func (w *writer) align() { w.write(make([]byte, -w.off&7)) }

func (w *writer) all(generation uint64, now time.Time, inputs []Input) error {
	header := make([]byte, headerSize)
	copy(header, headerMagic)
	binary.LittleEndian.PutUint64(header[8:], generation)
	binary.LittleEndian.PutUint64(header[16:], uint64(now.Unix()))
	w.write(header)
	metas := make([]Meta, len(inputs))
	for i := range inputs {
		metas[i] = inputs[i].Meta
		if err := w.list(i, &inputs[i]); err != nil {
			return err
		}
	}
	w.align()
	metaOff := w.off
	doc, err := json.Marshal(map[string][]Meta{"lists": metas})
	if err != nil {
		return err
	}
	if len(doc) > maxMetadata || len(w.rows) > maxRows {
		return fmt.Errorf("metadata of %d bytes and %d sections are more than a master list can hold", len(doc), len(w.rows))
	}
	w.write(doc)
	w.align()
	dirOff := w.off
	sortRows(w.rows)
	for _, r := range w.rows {
		w.write(r)
	}
	t := make([]byte, trailerSize)
	le := binary.LittleEndian
	le.PutUint64(t, uint64(w.off+trailerSize))
	le.PutUint64(t[8:], uint64(dirOff))
	le.PutUint32(t[16:], uint32(len(w.rows)))
	le.PutUint32(t[20:], uint32(len(inputs)))
	le.PutUint64(t[24:], uint64(metaOff))
	le.PutUint64(t[32:], uint64(len(doc)))
	w.write(t[:digestOff])
	copy(t[digestOff:], w.h.Sum(nil))
	copy(t[120:], trailerMagic)
	w.write(t[digestOff:])
	if w.err != nil {
		return w.err
	}
	return w.w.Flush()
}

func (w *writer) list(n int, in *Input) error {
	if in.Entries == nil {
		rows := in.From.sections[in.From.byList[in.Position]:in.From.byList[in.Position+1]]
		for i := range rows {
			v := &rows[i].view
			w.section(n, name.Key(rows[i].key[4:36]), v.Class, v.Count, v.Skip, v.Bits, v.Fan, v.Records)
		}
		runtime.KeepAlive(in.From.data)
		return w.err
	}
	for i := range in.Entries.Classes {
		c := &in.Entries.Classes[i]
		key, err := name.KeyOf(in.Entries.Issuers[c.Issuer])
		if err != nil {
			return err
		}
		skip, bits, fan := c.Fan()
		w.section(n, key, c.Class, c.Count, skip, bits, fan, c.Runs...)
	}
	return w.err
}

func (w *writer) section(n int, issuer name.Key, c index.Class, count int, skip uint16, bits uint8, fan []byte, runs ...[]byte) {
	w.align()
	row := make([]byte, rowSize)
	key := rowKey(n, issuer, c)
	copy(row, key[:])
	row[39] = bits
	binary.LittleEndian.PutUint16(row[40:], skip)
	binary.LittleEndian.PutUint64(row[48:], uint64(w.off))
	binary.LittleEndian.PutUint64(row[56:], uint64(count))
	for _, r := range runs {
		w.write(r)
	}
	w.align()
	binary.LittleEndian.PutUint64(row[64:], uint64(w.off))
	w.write(fan)
	w.rows = append(w.rows, row)
}

// Diff counts the entries that only the new or only the old list has. The old
// one stands at a position of f; there is none when f is nil.
func Diff(f *File, position int, after *list.Parsed) (added, removed int, err error) {
	type key struct {
		issuer name.Key
		class  index.Class
	}
	seen := make(map[key]bool)
	for i := range after.Classes {
		c := after.Classes[i]
		issuer, err := name.KeyOf(after.Issuers[c.Issuer])
		if err != nil {
			return 0, 0, err
		}
		c.Issuer = 0
		if c.Kind != index.Main {
			continue
		}
		seen[key{issuer, c.Class}] = true
		var before []byte
		if f != nil {
			if v := f.view(position, issuer, c.Class); v != nil {
				before = v.Records
			}
		}
		if err := index.Diff(c.Class, before, c.Runs, func([]byte) { added++ }, func([]byte) { removed++ }); err != nil {
			return 0, 0, err
		}
	}
	if f == nil {
		return added, removed, nil
	}
	for _, s := range f.sections[f.byList[position]:f.byList[position+1]] {
		if s.view.Kind == index.Main && !seen[key{name.Key(s.key[4:36]), s.view.Class}] {
			removed += s.view.Count
		}
	}
	runtime.KeepAlive(f.data)
	return added, removed, nil
}
