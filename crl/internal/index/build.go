package index

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"runtime"
	"slices"
	"sort"
	"sync"
)

const (
	blockRecords = 256
	maxBuckets   = 256
	// sampleMin is how many records a class needs before its keys are spread
	// over buckets; fewer are cheaper to sort at once.
	sampleMin = 2048
	// crowded is how many records may share a slot of the counting sort before
	// the comparison sort takes over.
	crowded = 48
)

// Layout says how the keys of each class are spread over buckets. It comes from
// a sample and only steers speed: any layout gives the same result.
type Layout map[Class]spread

type spread struct {
	lo      uint64
	shift   uint8
	buckets int
}

func key64(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

func (s spread) bucket(key []byte) int {
	v := key64(key)
	if v < s.lo {
		return 0
	}
	return int(min((v-s.lo)>>s.shift, uint64(s.buckets-1)))
}

// Builder collects records. Each goroutine has its own; Finish joins them.
type Builder struct {
	layout Layout
	stores map[Class]*store
	// last remembers the store of the previous record, since nearly all
	// records of a list are of one class.
	lastClass Class
	last      *store
}

type store struct {
	spread
	rec   int
	cur   []block    // by bucket, the block that is being filled
	full  [][][]byte // by bucket, blocks that are full
	count int
}

// block is filled up to n.
type block struct {
	buf []byte
	n   int
}

// NewBuilder returns an empty builder with a layout from a sample, or nil.
func NewBuilder(layout Layout) *Builder {
	return &Builder{layout: layout, stores: make(map[Class]*store)}
}

// Add makes room for one record, writes the padded key and returns the payload
// for the caller to fill in. It returns nil when mag is longer than MaxSerial.
func (b *Builder) Add(c Class, mag []byte) []byte {
	c.Width = WidthFor(len(mag))
	if c.Width == 0 {
		return nil
	}
	if b.last == nil || b.lastClass != c {
		b.last, b.lastClass = b.store(c), c
	}
	return b.last.add(mag, int(c.Width))
}

func (b *Builder) store(c Class) *store {
	if s := b.stores[c]; s != nil {
		return s
	}
	sp, ok := b.layout[c]
	if !ok {
		sp = spread{buckets: 1, shift: 63}
	}
	s := &store{spread: sp, rec: c.RecordSize(), cur: make([]block, sp.buckets), full: make([][][]byte, sp.buckets)}
	b.stores[c] = s
	return s
}

func (s *store) add(mag []byte, w int) []byte {
	if len(mag) != w {
		var padded [MaxSerial]byte
		copy(padded[w-len(mag):w], mag)
		mag = padded[:w]
	}
	n := 0
	if s.buckets > 1 {
		n = s.bucket(mag)
	}
	b := &s.cur[n]
	if b.n == len(b.buf) {
		s.grow(n)
	}
	r := b.buf[b.n : b.n+s.rec]
	b.n += s.rec
	copy(r, mag)
	s.count++
	return r[w:]
}

func (s *store) grow(n int) {
	b := &s.cur[n]
	if b.n > 0 {
		s.full[n] = append(s.full[n], b.buf)
	}
	*b = block{buf: make([]byte, blockRecords*s.rec)}
}

// blocks returns what a bucket holds.
func (s *store) blocks(n int) [][]byte {
	return append(s.full[n : n+1 : n+1][0], s.cur[n].buf[:s.cur[n].n])
}

// drop gives the memory of a bucket up.
func (s *store) drop(n int) { s.full[n], s.cur[n] = nil, block{} }

// Count returns the number of records of kind Main.
func (b *Builder) Count() int {
	n := 0
	for c, s := range b.stores {
		if c.Kind == Main {
			n += s.count
		}
	}
	return n
}

// Sample derives a layout from what the builder holds, for a list with about
// total records.
func (b *Builder) Sample(total int) Layout {
	layout := make(Layout)
	for c, s := range b.stores {
		if total < sampleMin || s.count < 64 {
			continue
		}
		lo, hi := uint64(1<<64-1), uint64(0)
		for n := range s.cur {
			for _, block := range s.blocks(n) {
				for at := 0; at < len(block); at += s.rec {
					v := key64(block[at:])
					lo, hi = min(lo, v), max(hi, v)
				}
			}
		}
		shift := bits.Len64(hi - lo)
		shift = max(shift-bits.Len(maxBuckets-1), 0)
		layout[c] = spread{lo: lo, shift: uint8(shift), buckets: maxBuckets}
	}
	return layout
}

// Finish sorts what the builders hold and returns it by class, and how many
// records were dropped because their key was there already. Of records with
// one key, merge picks which payload stays: it returns true for b. The builders
// are empty afterwards. Peak memory is one times the records plus two buckets
// for each goroutine.
func Finish(builders []*Builder, merge func(c Class, a, b []byte) bool) (out []Sorted, duplicates int) {
	var classes []Class
	seen := make(map[Class]bool)
	for _, b := range builders {
		for c := range b.stores {
			if !seen[c] {
				seen[c] = true
				classes = append(classes, c)
			}
		}
	}
	slices.SortFunc(classes, func(a, b Class) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	for _, c := range classes {
		s, dup := finishClass(c, builders, merge)
		duplicates += dup
		out = append(out, s)
	}
	return out, duplicates
}

// finishClass sorts one class. Builders with another layout than the first
// one's are poured into that layout.
func finishClass(c Class, builders []*Builder, merge func(c Class, a, b []byte) bool) (Sorted, int) {
	var stores []*store
	for _, b := range builders {
		if s := b.stores[c]; s != nil {
			stores = append(stores, s)
			delete(b.stores, c)
		}
		b.last = nil
	}
	target := stores[0]
	for _, s := range stores {
		if s.buckets > target.buckets {
			target = s
		}
	}
	for _, s := range stores {
		if s != target && s.spread != target.spread {
			s.pourInto(target, int(c.Width))
		}
	}
	runs := make([][]byte, target.buckets)
	var wg sync.WaitGroup
	workers := 1
	if target.buckets > 1 {
		workers = min(runtime.GOMAXPROCS(0), 4)
	}
	dups := make([]int, workers)
	for w := range workers {
		wg.Go(func() {
			var scratch sorter
			for n := w; n < target.buckets; n += workers {
				var dup int
				runs[n], dup = scratch.sort(c, stores, n, merge)
				dups[w] += dup
			}
		})
	}
	wg.Wait()
	out := Sorted{Class: c, Runs: runs}
	for _, r := range runs {
		out.Count += len(r) / c.RecordSize()
	}
	total := 0
	for _, d := range dups {
		total += d
	}
	return out, total
}

func (s *store) pourInto(t *store, w int) {
	for n := range s.cur {
		for _, block := range s.blocks(n) {
			for at := 0; at < len(block); at += s.rec {
				copy(t.add(block[at:at+w], w), block[at+w:at+s.rec])
			}
		}
		s.drop(n)
	}
	s.count = 0
}

// sorter is the scratch memory of one goroutine.
type sorter struct {
	buf  []byte
	fill []uint32
}

// sort gathers bucket n of all stores and returns it sorted.
func (t *sorter) sort(c Class, stores []*store, n int, merge func(c Class, a, b []byte) bool) ([]byte, int) {
	buf := t.buf[:0]
	for _, s := range stores {
		if n >= len(s.cur) {
			continue
		}
		for _, block := range s.blocks(n) {
			buf = append(buf, block...)
		}
		s.drop(n)
	}
	t.buf = buf
	if len(buf) == 0 {
		return nil, 0
	}
	rec, w := c.RecordSize(), int(c.Width)
	count := len(buf) / rec
	out := make([]byte, len(buf))
	lo, hi := uint64(1<<64-1), uint64(0)
	off := t.keyOffset(buf, rec, w)
	for at := off; at < len(buf); at += rec {
		v := key64(buf[at:])
		lo, hi = min(lo, v), max(hi, v)
	}
	nbits := bits.Len(uint(count / 2))
	shift := max(bits.Len64(hi-lo)-nbits, 0)
	slots := int((hi-lo)>>shift) + 2
	t.fill = append(t.fill[:0], make([]uint32, slots)...)
	fill := t.fill
	for at := off; at < len(buf); at += rec {
		fill[(key64(buf[at:])-lo)>>shift+1]++
	}
	full := uint32(0)
	for i := 1; i < slots; i++ {
		full = max(full, fill[i])
		fill[i] += fill[i-1]
	}
	for at := 0; at < len(buf); at += rec {
		s := (key64(buf[at+off:]) - lo) >> shift
		copy(out[int(fill[s])*rec:], buf[at:at+rec])
		fill[s]++
	}
	if full > crowded {
		sort.Sort(&records{out, rec, w})
	} else if !insertion(out, rec, w, off) {
		return out, 0
	}
	return dedup(c, out, merge)
}

// keyOffset returns where in the key the eight bytes stand that tell the keys
// apart best: behind the bytes that all of them have in common.
func (t *sorter) keyOffset(buf []byte, rec, w int) int {
	first := buf[:w]
	common := w
	for at := rec; at < len(buf) && common > 0; at += rec {
		i := 0
		for i < common && buf[at+i] == first[i] {
			i++
		}
		common = i
	}
	return min(common, w-8)
}

// insertion sorts records that are nearly in order, and reports whether two keys
// may be the same. The keys have their first off bytes in common.
func insertion(buf []byte, rec, w, off int) (same bool) {
	var tmp [maxRecord]byte
	prev := key64(buf[off:])
	for at := rec; at < len(buf); at += rec {
		key := key64(buf[at+off:])
		if prev < key {
			prev = key
			continue
		}
		c := 1
		if prev == key {
			c = bytes.Compare(buf[at-rec:at-rec+w], buf[at:at+w])
		}
		if c <= 0 {
			same = same || c == 0
			continue
		}
		copy(tmp[:rec], buf[at:at+rec])
		to := at
		for to > 0 {
			c := bytes.Compare(buf[to-rec:to-rec+w], tmp[:w])
			same = same || c == 0
			if c <= 0 {
				break
			}
			copy(buf[to:to+rec], buf[to-rec:to])
			to -= rec
		}
		copy(buf[to:], tmp[:rec])
	}
	return same
}

func dedup(c Class, buf []byte, merge func(c Class, a, b []byte) bool) ([]byte, int) {
	rec, w := c.RecordSize(), int(c.Width)
	keep := rec
	for at := rec; at < len(buf); at += rec {
		if !bytes.Equal(buf[keep-rec:keep-rec+w], buf[at:at+w]) {
			if keep != at {
				copy(buf[keep:], buf[at:at+rec])
			}
			keep += rec
			continue
		}
		if merge(c, buf[keep-rec+w:keep], buf[at+w:at+rec]) {
			copy(buf[keep-rec:keep], buf[at:at+rec])
		}
	}
	return buf[:keep], (len(buf) - keep) / rec
}

// records sorts by comparison: it is the slow path for keys that are crowded.
type records struct {
	buf    []byte
	rec, w int
}

func (r *records) Len() int { return len(r.buf) / r.rec }
func (r *records) Less(i, j int) bool {
	return bytes.Compare(r.buf[i*r.rec:i*r.rec+r.w], r.buf[j*r.rec:j*r.rec+r.w]) < 0
}
func (r *records) Swap(i, j int) {
	var tmp [maxRecord]byte
	a, b := r.buf[i*r.rec:(i+1)*r.rec], r.buf[j*r.rec:(j+1)*r.rec]
	copy(tmp[:], a)
	copy(a, b)
	copy(b, tmp[:])
}
