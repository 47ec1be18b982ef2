// Package index holds revocation entries as sorted runs of fixed-size records,
// so that 16-byte serial numbers cost 21 bytes each, a lookup touches a few
// cache lines, and two lists are compared by walking both once.
//
// A record is a key, the magnitude of a serial number padded on the left with
// zeros to the width of its class, and a payload. Records of one class are
// sorted by key, hold each key once, and stand one after the other.
package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Kind says what the payload of a class is.
type Kind uint8

// The kinds of payload.
const (
	// Main records have four bytes of revocation date (seconds since 1970, big
	// endian) and one byte: the reason code in the low four bits and FlagExtra.
	Main Kind = 0
	// Extra records have eight bytes of revocation date and eight bytes of
	// invalidity date (seconds since 1970, big endian, two's complement;
	// NoDate for none).
	Extra Kind = 1
)

const (
	// FlagExtra in the last byte of a Main payload says that an Extra record
	// with the same key exists.
	FlagExtra = 0x80
	// ReasonMask selects the reason code in the last byte of a Main payload.
	ReasonMask = 0x0f
	// MaxSerial is the longest serial number in bytes that has a class.
	MaxSerial = 64
	// NoDate stands for a date that is absent.
	NoDate = -1 << 63

	mainPayload  = 5
	extraPayload = 16
	maxRecord    = MaxSerial + extraPayload
	// entriesPerSlot is how many records share one slot of the fan-out table. It
	// makes the table small enough to stay in the processor's cache, which
	// saves one of the two reads from memory that a lookup would cost.
	entriesPerSlot = 64
	maxFanBits     = 24
	// guessBits is how finely a position within a slot is estimated, and walk
	// how many records are tried from there before the search goes by halves.
	guessBits = 16
	walk      = 12
)

// Class names one run of records of a list.
type Class struct {
	// Issuer is the position of the certificate issuer in the list's table of
	// issuers; 0 is the issuer of the list itself.
	Issuer uint32
	// Kind says what the payload is.
	Kind Kind
	// Negative is set for serial numbers below zero, which standards forbid
	// and which exist.
	Negative bool
	// Width is the size of a key: 8, 16, 20, 32 or 64.
	Width uint8
}

// RecordSize returns the size of a record in bytes.
func (c Class) RecordSize() int {
	if c.Kind == Extra {
		return int(c.Width) + extraPayload
	}
	return int(c.Width) + mainPayload
}

// Valid reports whether the class is one that this package writes.
func (c Class) Valid() bool {
	return c.Kind <= Extra && (c.Width == 8 || c.Width == 16 || c.Width == 20 || c.Width == 32 || c.Width == 64)
}

// Less orders classes the way that they stand in a file.
func (c Class) Less(d Class) bool {
	switch {
	case c.Issuer != d.Issuer:
		return c.Issuer < d.Issuer
	case c.Kind != d.Kind:
		return c.Kind < d.Kind
	case c.Negative != d.Negative:
		return !c.Negative
	}
	return c.Width < d.Width
}

// WidthFor returns the key width for a magnitude of n bytes, 0 when there is none.
func WidthFor(n int) uint8 {
	switch {
	case n <= 8:
		return 8
	case n <= 16:
		return 16
	case n <= 20:
		return 20
	case n <= 32:
		return 32
	case n <= 64:
		return 64
	}
	return 0
}

// Magnitude splits the content octets of a DER INTEGER into sign and magnitude
// without leading zeros. It allocates for negative numbers only.
func Magnitude(content []byte) (mag []byte, negative bool) {
	if len(content) > 0 && content[0]&0x80 != 0 {
		mag = make([]byte, len(content))
		carry := uint16(1)
		for i := len(content) - 1; i >= 0; i-- {
			v := uint16(^content[i]) + carry
			mag[i] = byte(v)
			carry = v >> 8
		}
		content, negative = mag, true
	}
	for len(content) > 0 && content[0] == 0 {
		content = content[1:]
	}
	return content, negative
}

// FanBits returns how many bits the fan-out table of n records is indexed by.
func FanBits(n int) uint8 {
	b := bits.Len(uint(n / entriesPerSlot))
	return uint8(min(b, maxFanBits))
}

// commonBits returns the length of the common prefix of two keys in bits.
func commonBits(a, b []byte) int {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return i*8 + bits.LeadingZeros8(x)
		}
	}
	return len(a) * 8
}

// slot returns the nbits bits of key that follow its first skip bits. Bits
// behind the key are zero.
func slot(key []byte, skip, nbits int) int {
	if nbits == 0 {
		return 0
	}
	at := skip / 8
	var v uint64
	if at+8 <= len(key) {
		v = binary.BigEndian.Uint64(key[at:])
	} else {
		for i := at; i < len(key); i++ {
			v |= uint64(key[i]) << (56 - 8*(i-at))
		}
	}
	// nbits is at most 24 and the shift at most 7, so eight bytes suffice.
	return int(v << (skip % 8) >> (64 - nbits))
}

// View is a class in its finished form, mostly backed by a mapped file. It is
// immutable and safe for concurrent use.
type View struct {
	Class
	// Count is the number of records.
	Count int
	// Skip is how many leading bits all keys have in common.
	Skip uint16
	// Bits is the number of key bits behind Skip that index the fan-out table.
	Bits uint8
	// Records are Count records.
	Records []byte
	// Fan is 1<<Bits + 1 positions, little endian uint32: slot i holds the
	// records from Fan[i] up to Fan[i+1].
	Fan []byte
}

var errView = errors.New("index: sizes of a section do not agree")

// Check verifies that sizes agree, so that Find stays in bounds.
func (v *View) Check() error {
	if !v.Valid() || v.Bits > maxFanBits || int(v.Skip) > int(v.Width)*8 || v.Count < 0 {
		return errView
	}
	if len(v.Records) != v.Count*v.RecordSize() || len(v.Fan) != 4*(1<<v.Bits+1) {
		return errView
	}
	return nil
}

// Find returns the payload of the record whose magnitude is mag. It does not
// allocate.
func (v *View) Find(mag []byte) (payload []byte, ok bool) {
	w := int(v.Width)
	if len(mag) > w || v.Count == 0 {
		return nil, false
	}
	key := mag
	if len(mag) < w {
		var padded [MaxSerial]byte
		copy(padded[w-len(mag):w], mag)
		key = padded[:w]
	}
	s := slot(key, int(v.Skip), int(v.Bits))
	lo := int(binary.LittleEndian.Uint32(v.Fan[4*s:]))
	hi := int(binary.LittleEndian.Uint32(v.Fan[4*s+4:]))
	if lo > hi || hi > v.Count {
		return nil, false
	}
	rec := v.RecordSize()
	if hi-lo > 2 {
		// Serial numbers are mostly random, so that the next bits tell about where
		// the key stands. When they are not, halves bound the cost.
		at := lo + (hi-lo)*slot(key, int(v.Skip)+int(v.Bits), guessBits)>>guessBits
		switch c := bytes.Compare(v.Records[at*rec:at*rec+w], key); {
		case c == 0:
			return v.Records[at*rec+w : at*rec+rec], true
		case c < 0:
			lo = at + 1
			for end := min(hi, lo+walk); lo < end; lo++ {
				if c := bytes.Compare(v.Records[lo*rec:lo*rec+w], key); c == 0 {
					return v.Records[lo*rec+w : lo*rec+rec], true
				} else if c > 0 {
					return nil, false
				}
			}
		default:
			hi = at
			for end := max(lo, hi-walk); hi > end; hi-- {
				if c := bytes.Compare(v.Records[hi*rec-rec:hi*rec-rec+w], key); c == 0 {
					return v.Records[hi*rec-rec+w : hi*rec], true
				} else if c < 0 {
					return nil, false
				}
			}
		}
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		at := v.Records[mid*rec : mid*rec+rec]
		switch c := bytes.Compare(at[:w], key); {
		case c == 0:
			return at[w:], true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return nil, false
}

// Sorted is a class that was built in memory: sorted runs, one after the other.
type Sorted struct {
	Class
	Count int
	Runs  [][]byte
}

// bounds returns the first and the last key.
func (s *Sorted) bounds() (first, last []byte) {
	rec, w := s.RecordSize(), int(s.Width)
	for _, r := range s.Runs {
		if len(r) == 0 {
			continue
		}
		if first == nil {
			first = r[:w]
		}
		last = r[len(r)-rec : len(r)-rec+w]
	}
	return first, last
}

// Fan computes the fan-out table.
func (s *Sorted) Fan() (skip uint16, nbits uint8, fan []byte) {
	nbits = FanBits(s.Count)
	fan = make([]byte, 4*(1<<nbits+1))
	first, last := s.bounds()
	if first != nil {
		skip = uint16(commonBits(first, last))
	}
	rec, w := s.RecordSize(), int(s.Width)
	next, n := 0, 0
	for _, r := range s.Runs {
		for at := 0; at < len(r); at += rec {
			for b := slot(r[at:at+w], int(skip), int(nbits)); next <= b; next++ {
				binary.LittleEndian.PutUint32(fan[4*next:], uint32(n))
			}
			n++
		}
	}
	for ; next <= 1<<nbits; next++ {
		binary.LittleEndian.PutUint32(fan[4*next:], uint32(n))
	}
	return skip, nbits, fan
}

// View returns the class in its finished form in memory.
func (s *Sorted) View() *View {
	skip, nbits, fan := s.Fan()
	return &View{Class: s.Class, Count: s.Count, Skip: skip, Bits: nbits, Records: bytes.Join(s.Runs, nil), Fan: fan}
}

// Diff walks two sorted record runs of one class and calls added and removed
// for each key that only one of them has. The key is valid during the call.
func Diff(c Class, before []byte, after [][]byte, added, removed func(key []byte)) error {
	rec, w := c.RecordSize(), int(c.Width)
	if len(before)%rec != 0 {
		return fmt.Errorf("index: %d bytes are no whole number of records", len(before))
	}
	for _, run := range after {
		for at := 0; at < len(run); at += rec {
			key := run[at : at+w]
			cmp := -1
			for len(before) > 0 {
				if cmp = bytes.Compare(key, before[:w]); cmp <= 0 {
					break
				}
				removed(before[:w])
				before = before[rec:]
			}
			if len(before) > 0 && cmp == 0 {
				before = before[rec:]
			} else {
				added(key)
			}
		}
	}
	for ; len(before) > 0; before = before[rec:] {
		removed(before[:w])
	}
	return nil
}
