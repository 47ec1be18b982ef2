// Package master reads and writes the master list, whose format FORMAT.md
// describes.
package master

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"

	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/mmap"
	"github.com/mooringlib/mooring/crl/internal/name"
)

const (
	headerMagic  = "MOORCRL1"
	trailerMagic = "MOOREND1"
	headerSize   = 64
	trailerSize  = 128
	rowSize      = 80
	rowKeySize   = 39
	digestOff    = 88
	// fewRows is up to how many sections of a list are looked at one by one.
	fewRows = 8

	// maxMetadata bounds the metadata that a reader takes.
	maxMetadata = 64 << 20
	// maxRows bounds the directory that a reader takes.
	maxRows = 4 << 20
)

// ErrCorrupt says that a master list is damaged.
var ErrCorrupt = errors.New("master list is damaged")

// Meta describes one list. Its fields are in FORMAT.md.
type Meta struct {
	ID           string   `json:"id"`
	Line         string   `json:"line"`
	Issuer       []byte   `json:"issuer"`
	Issuers      [][]byte `json:"issuers"`
	Number       string   `json:"number,omitempty"`
	Base         string   `json:"base,omitempty"`
	ThisUpdate   int64    `json:"this_update"`
	NextUpdate   int64    `json:"next_update,omitempty"`
	KeyID        []byte   `json:"key_id,omitempty"`
	Scope        []byte   `json:"scope,omitempty"`
	Freshest     []string `json:"freshest,omitempty"`
	ExpiredSince int64    `json:"expired_since,omitempty"`
	Signer       string   `json:"signer"`
	Size         int64    `json:"size"`
	Entries      int      `json:"entries"`
	Source       string   `json:"source,omitempty"`
	Received     int64    `json:"received"`
	Warnings     []string `json:"warnings,omitempty"`
}

// Entry is what a list says about one certificate.
type Entry struct {
	// Reason is the reason code of RFC 5280 section 5.3.1.
	Reason byte
	// Date is when it was revoked, Invalidity from when on it is suspected not
	// to be valid, index.NoDate for none; both in seconds since 1970.
	Date, Invalidity int64
}

// section is one row of the directory with what it points at.
type section struct {
	key  [rowKeySize]byte
	view index.View
	off  int64
}

// File is an open master list. It is immutable and safe for concurrent use,
// and needs no closing: the map goes when the last reference goes.
type File struct {
	Generation uint64
	Created    int64
	Lists      []Meta

	sections []section
	// byList is where the sections of each list begin; one longer than Lists.
	byList []int
	data   *mmap.Mapping
}

// Open maps the master list at path and checks it. A damaged file gives an
// error that wraps ErrCorrupt.
func Open(path string) (*File, error) { return open(path, true) }

func open(path string, check bool) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() < headerSize+trailerSize {
		return nil, fmt.Errorf("%w: it is too short", ErrCorrupt)
	}
	if check {
		if err := checkDigest(f, info.Size()); err != nil {
			return nil, err
		}
	}
	m, err := mmap.Open(f)
	if err != nil {
		return nil, err
	}
	out := &File{data: m}
	if err := out.parse(m.Bytes); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return out, nil
}

// checkDigest reads instead of touching the map, so that checking a big file
// does not make it resident.
func checkDigest(f *os.File, size int64) error {
	h := sha256.New()
	end := size - trailerSize + digestOff
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(f, 0, end)}, make([]byte, 256<<10)); err != nil {
		return err
	}
	var want [sha256.Size]byte
	if _, err := f.ReadAt(want[:], end); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want[:]) {
		return fmt.Errorf("%w: its digest does not fit", ErrCorrupt)
	}
	return nil
}

func (f *File) parse(data []byte) error {
	bad := errors.New("its parts do not agree")
	t := data[len(data)-trailerSize:]
	if string(data[:8]) != headerMagic || string(t[120:]) != trailerMagic {
		return errors.New("it is of another version, or no master list")
	}
	size := uint64(len(data))
	dir, rows, lists := binary.LittleEndian.Uint64(t[8:]), binary.LittleEndian.Uint32(t[16:]), binary.LittleEndian.Uint32(t[20:])
	meta, metaLen := binary.LittleEndian.Uint64(t[24:]), binary.LittleEndian.Uint64(t[32:])
	if binary.LittleEndian.Uint64(t) != size || rows > maxRows || metaLen > maxMetadata ||
		dir > size || uint64(rows)*rowSize > size-dir || meta > size || metaLen > size-meta {
		return bad
	}
	f.Generation = binary.LittleEndian.Uint64(data[8:])
	f.Created = int64(binary.LittleEndian.Uint64(data[16:]))
	var doc struct {
		Lists []Meta `json:"lists"`
	}
	if err := json.Unmarshal(data[meta:meta+metaLen], &doc); err != nil {
		return err
	}
	if uint32(len(doc.Lists)) != lists {
		return bad
	}
	f.Lists = doc.Lists
	f.sections = make([]section, rows)
	f.byList = make([]int, len(doc.Lists)+1)
	for i := range f.sections {
		row := data[dir+uint64(i)*rowSize:][:rowSize]
		s := &f.sections[i]
		if err := s.parse(row, data); err != nil {
			return err
		}
		l := binary.BigEndian.Uint32(row)
		if l >= lists || i > 0 && bytes.Compare(f.sections[i-1].key[:], s.key[:]) >= 0 {
			return bad
		}
		f.byList[l+1] = i + 1
	}
	for i := 1; i < len(f.byList); i++ {
		f.byList[i] = max(f.byList[i], f.byList[i-1])
	}
	return nil
}

func (s *section) parse(row, data []byte) error {
	copy(s.key[:], row)
	s.view.Class = index.Class{Kind: index.Kind(row[36]), Negative: row[37] == 1, Width: row[38]}
	s.view.Bits, s.view.Skip = row[39], binary.LittleEndian.Uint16(row[40:])
	off, count, fan := binary.LittleEndian.Uint64(row[48:]), binary.LittleEndian.Uint64(row[56:]), binary.LittleEndian.Uint64(row[64:])
	size := uint64(len(data))
	if !s.view.Valid() || s.view.Bits > 24 || count > size || off > size || fan > size {
		return errors.New("a section is malformed")
	}
	recs, fanLen := count*uint64(s.view.RecordSize()), uint64(4)<<s.view.Bits+4
	if recs > size-off || fanLen > size-fan {
		return errors.New("a section reaches beyond the file")
	}
	s.view.Count, s.off = int(count), int64(off)
	s.view.Records, s.view.Fan = data[off:off+recs:off+recs], data[fan:fan+fanLen:fan+fanLen]
	return s.view.Check()
}

func rowKey(list int, issuer name.Key, c index.Class) (k [rowKeySize]byte) {
	binary.BigEndian.PutUint32(k[:], uint32(list))
	copy(k[4:], issuer[:])
	k[36] = byte(c.Kind)
	if c.Negative {
		k[37] = 1
	}
	k[38] = c.Width
	return k
}

// view returns the section for one key, nil when there is none.
func (f *File) view(list int, issuer name.Key, c index.Class) *index.View {
	rows := f.sections[f.byList[list]:f.byList[list+1]]
	if len(rows) <= fewRows {
		for i := range rows {
			if r := &rows[i]; r.view.Class == c && bytes.Equal(r.key[4:36], issuer[:]) {
				return &r.view
			}
		}
		return nil
	}
	key := rowKey(list, issuer, c)
	lo, hi := 0, len(rows)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(rows[mid].key[:], key[:]) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(rows) || rows[lo].key != key {
		return nil
	}
	return &rows[lo].view
}

// Find looks a serial number up in the list at position list. It does not
// allocate.
func (f *File) Find(list int, issuer name.Key, mag []byte, negative bool) (e Entry, ok bool) {
	c := index.Class{Negative: negative, Width: index.WidthFor(len(mag))}
	v := f.view(list, issuer, c)
	if v == nil {
		return Entry{}, false
	}
	p, ok := v.Find(mag)
	if ok {
		e = Entry{Reason: p[4] & index.ReasonMask, Date: int64(binary.BigEndian.Uint32(p)), Invalidity: index.NoDate}
		if p[4]&index.FlagExtra != 0 {
			c.Kind = index.Extra
			if v := f.view(list, issuer, c); v != nil {
				if x, ok := v.Find(mag); ok {
					e.Date = int64(binary.BigEndian.Uint64(x))
					e.Invalidity = int64(binary.BigEndian.Uint64(x[8:]))
				}
			}
		}
	}
	runtime.KeepAlive(f.data)
	return e, ok
}

// Position returns where the list with an identity stands, -1 when it is not here.
func (f *File) Position(id string) int {
	for i := range f.Lists {
		if f.Lists[i].ID == id {
			return i
		}
	}
	return -1
}

// Size returns the size of the file in bytes.
func (f *File) Size() int { return len(f.data.Bytes) }

// IndexSize returns the bytes that the entries of a list take.
func (f *File) IndexSize(list int) int {
	n := 0
	for _, s := range f.sections[f.byList[list]:f.byList[list+1]] {
		n += len(s.view.Records) + len(s.view.Fan)
	}
	return n
}

// sortRows brings rows into the order of the directory.
func sortRows(rows [][]byte) {
	sort.Slice(rows, func(i, j int) bool { return bytes.Compare(rows[i][:rowKeySize], rows[j][:rowKeySize]) < 0 })
}
