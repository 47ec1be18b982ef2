package list

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mooringlib/mooring/crl/internal/dist"
	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/name"
)

// Reason codes of RFC 5280 section 5.3.1 that are treated apart.
const (
	ReasonUnspecified = 0
	ReasonHold        = 6
	ReasonRemove      = 8
	maxReason         = 10
)

// Parsed are the entries of a list in sorted form.
type Parsed struct {
	// Classes are the entries.
	Classes []index.Sorted
	// Issuers are the DER encoded names of certificate issuers; the first is
	// the list's own.
	Issuers [][]byte
	// Duplicates is how many entries repeated a serial number.
	Duplicates int
}

// Entries interprets the entries. Memory grows with the entries alone: 21
// bytes for each with a 16-byte serial number, plus a fixed part below 16 MiB.
func (v *Verified) Entries(ctx context.Context) (*Parsed, error) {
	issuers := newIssuerTable(v.Issuer)
	builders, err := v.parse(ctx, issuers)
	if err != nil {
		return nil, err
	}
	out := &Parsed{Issuers: issuers.names}
	delta := v.Delta()
	out.Classes, out.Duplicates = index.Finish(builders, func(c index.Class, a, b []byte) bool {
		return merge(c, a, b, delta)
	})
	return out, nil
}

// merge decides which of two entries for one serial number stays: one that
// revokes for good wins over a hold, that over a removal, then the earlier one.
func merge(c index.Class, a, b []byte, delta bool) (takeB bool) {
	if c.Kind == index.Extra {
		return int64(binary.BigEndian.Uint64(b)) < int64(binary.BigEndian.Uint64(a))
	}
	weight := func(p []byte) int {
		switch p[4] & index.ReasonMask {
		case ReasonRemove:
			if delta {
				return 0
			}
		case ReasonHold:
			return 1
		}
		return 2
	}
	if wa, wb := weight(a), weight(b); wa != wb {
		return wb > wa
	}
	return binary.BigEndian.Uint32(b) < binary.BigEndian.Uint32(a)
}

// parse reads all chunks, on as many goroutines as there are processors. The
// entries of an indirect list depend on the ones before them and are read by
// one goroutine.
func (v *Verified) parse(ctx context.Context, issuers *issuerTable) ([]*index.Builder, error) {
	n := len(v.chunks) - 1
	if n <= 0 {
		return nil, nil
	}
	first := v.reader(index.NewBuilder(nil), issuers)
	if err := first.chunk(v.chunks[0], v.chunks[1]); err != nil {
		return nil, err
	}
	builders := []*index.Builder{first.b}
	workers := min(runtime.GOMAXPROCS(0), n-1, 8)
	if v.Scope.Indirect {
		workers = min(workers, 1)
	}
	if workers <= 0 {
		return builders, nil
	}
	layout := first.b.Sample(v.Count)
	errs := make([]error, workers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		r := v.reader(index.NewBuilder(layout), issuers)
		r.issuer = first.issuer
		builders = append(builders, r.b)
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i >= n || ctx.Err() != nil {
					return
				}
				if errs[w] = r.chunk(v.chunks[i], v.chunks[i+1]); errs[w] != nil {
					next.Store(int64(n))
					return
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return builders, errors.Join(errs...)
}

func (v *Verified) reader(b *index.Builder, issuers *issuerTable) *entryReader {
	return &entryReader{
		src: v.src, b: b, issuers: issuers,
		extensions: v.Version == 2, indirect: v.Scope.Indirect, delta: v.Delta(),
	}
}

// issuerTable numbers the certificate issuers of an indirect list.
type issuerTable struct {
	byKey map[name.Key]uint32
	names [][]byte
}

func newIssuerTable(own []byte) *issuerTable {
	t := &issuerTable{byKey: make(map[name.Key]uint32), names: [][]byte{own}}
	if k, err := name.KeyOf(own); err == nil {
		t.byKey[k] = 0
	}
	return t
}

func (t *issuerTable) number(der []byte) (uint32, error) {
	k, err := name.KeyOf(der)
	if err != nil {
		return 0, err
	}
	if n, ok := t.byKey[k]; ok {
		return n, nil
	}
	if len(t.names) == maxIssuers {
		return 0, fmt.Errorf("list has entries of more than %d issuers", maxIssuers)
	}
	n := uint32(len(t.names))
	t.byKey[k] = n
	t.names = append(t.names, der)
	return n, nil
}

// entryReader reads chunks of entries. It belongs to one goroutine.
type entryReader struct {
	src     io.ReaderAt
	b       *index.Builder
	issuers *issuerTable
	issuer  uint32
	buf     []byte
	// day remembers the last date, since neighbours share it often.
	dayText                     [6]byte
	daySeconds                  uint32
	extensions, indirect, delta bool
}

func (r *entryReader) chunk(from, to int64) error {
	if cap(r.buf) < int(to-from) {
		r.buf = make([]byte, max(to-from, chunkSize+maxEntry))
	}
	buf := r.buf[:to-from]
	if _, err := r.src.ReadAt(buf, from); err != nil {
		return readError(err)
	}
	for len(buf) > 0 {
		n := r.fast(buf)
		if n == 0 {
			var err error
			if n, err = r.slow(buf); err != nil {
				return err
			}
		}
		buf = buf[n:]
	}
	return nil
}

// reasonPrefix is the only extension that most entries have, up to its value.
const reasonPrefix = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// fast reads an entry of the common shape: a positive serial number, UTCTime
// since 1970, and a reason code or nothing. It returns 0 for every other shape
// and leaves it to slow.
func (r *entryReader) fast(b []byte) int {
	if len(b) < 4 || b[1] >= 0x80 {
		return 0
	}
	size := 2 + int(b[1])
	at := 4 + int(b[3]) // the time
	if size > len(b) || at+15 > size || b[2] != 2 || b[3] == 0 || b[4]&0x80 != 0 || b[at] != 0x17 || b[at+1] != 13 {
		return 0
	}
	reason := byte(0)
	switch size - at - 15 {
	case 0:
	case len(reasonPrefix) + 1:
		if string(b[at+15:size-1]) != reasonPrefix || !r.extensions {
			return 0
		}
		reason = b[size-1]
		if reason > maxReason || reason == 7 {
			return 0
		}
	default:
		return 0
	}
	secs, ok := r.utc(b[at+2 : at+15])
	if !ok {
		return 0
	}
	mag := b[4:at]
	if mag[0] == 0 {
		if len(mag) > 1 && mag[1] < 0x80 {
			return 0
		}
		mag = mag[1:]
	}
	p := r.b.Add(index.Class{Issuer: r.issuer}, mag)
	if p == nil {
		return 0
	}
	binary.BigEndian.PutUint32(p, secs)
	p[4] = reason
	return size
}

// utc reads a UTCTime from 1970 on.
func (r *entryReader) utc(s []byte) (uint32, bool) {
	_ = s[12]
	// A byte that is no digit makes a value above nine.
	h1, h2, m1, m2, s1, s2 := s[6]-'0', s[7]-'0', s[8]-'0', s[9]-'0', s[10]-'0', s[11]-'0'
	if h1 > 2 || h2 > 9 || m1 > 5 || m2 > 9 || s1 > 5 || s2 > 9 || s[12] != 'Z' {
		return 0, false
	}
	h := uint32(h1)*10 + uint32(h2)
	if h > 23 {
		return 0, false
	}
	secs := h*3600 + (uint32(m1)*10+uint32(m2))*60 + uint32(s1)*10 + uint32(s2)
	if day := [6]byte(s); day != r.dayText {
		t, err := time.Parse("060102", string(day[:]))
		if err != nil {
			return 0, false
		}
		if t.Year() >= 2050 || t.Year() < 1970 {
			return 0, false
		}
		r.dayText, r.daySeconds = day, uint32(t.Unix())
	}
	return r.daySeconds + secs, true
}

// slow reads an entry of any shape.
func (r *entryReader) slow(b []byte) (int, error) {
	in := cryptobyte.String(b)
	var e, serial cryptobyte.String
	if !in.ReadASN1(&e, cbasn1.SEQUENCE) || !e.ReadASN1(&serial, cbasn1.INTEGER) || !shortest(serial) {
		return 0, errors.New("an entry is malformed")
	}
	mag, negative := index.Magnitude(serial)
	if len(mag) > index.MaxSerial {
		return 0, fmt.Errorf("serial number of %d bytes is longer than %d", len(mag), index.MaxSerial)
	}
	fail := func(err error) (int, error) { return 0, fmt.Errorf("entry %.42x: %w", []byte(serial), err) }
	at, err := readTime(&e)
	if err != nil {
		return fail(err)
	}
	reason, invalidity := byte(ReasonUnspecified), int64(index.NoDate)
	if !e.Empty() {
		if !r.extensions {
			return fail(errors.New("extensions in a list that is not of version 2"))
		}
		if reason, invalidity, err = r.entryExtensions(e); err != nil {
			return fail(err)
		}
	}
	secs := at.Unix()
	c := index.Class{Issuer: r.issuer, Negative: negative}
	if secs < 0 || secs > 1<<32-1 || invalidity != index.NoDate {
		p := r.b.Add(index.Class{Issuer: r.issuer, Kind: index.Extra, Negative: negative}, mag)
		binary.BigEndian.PutUint64(p, uint64(secs))
		binary.BigEndian.PutUint64(p[8:], uint64(invalidity))
		reason |= index.FlagExtra
	}
	p := r.b.Add(c, mag)
	binary.BigEndian.PutUint32(p, uint32(min(max(secs, 0), 1<<32-1)))
	p[4] = reason
	return len(b) - len(in), nil
}

func shortest(i []byte) bool {
	if len(i) < 2 {
		return len(i) == 1
	}
	return !(i[0] == 0 && i[1] < 0x80 || i[0] == 0xff && i[1] >= 0x80)
}

func (r *entryReader) entryExtensions(in cryptobyte.String) (reason byte, invalidity int64, err error) {
	invalidity = index.NoDate
	exts, err := readExtensions(in)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range exts {
		v := cryptobyte.String(e.value)
		switch e.oid {
		case oidReason:
			var code cryptobyte.String
			if !v.ReadASN1(&code, cbasn1.ENUM) || !v.Empty() || len(code) != 1 || code[0] > maxReason || code[0] == 7 {
				return 0, 0, errors.New("reason code is malformed or unknown")
			}
			reason = code[0]
		case oidInvalidity:
			t, err := readTime(&v)
			if err != nil || !v.Empty() {
				return 0, 0, errors.New("invalidity date is malformed")
			}
			invalidity = t.Unix()
		case oidCertIssuer:
			if !r.indirect {
				return 0, 0, errors.New("certificate issuer in a list that is not indirect")
			}
			var names cryptobyte.String
			if !v.ReadASN1(&names, cbasn1.SEQUENCE) || !v.Empty() {
				return 0, 0, errors.New("certificate issuer is malformed")
			}
			dns, err := dist.DirectoryNames(names)
			if err != nil {
				return 0, 0, err
			}
			if len(dns) != 1 {
				return 0, 0, errors.New("certificate issuer has more than one directory name")
			}
			if r.issuer, err = r.issuers.number(dns[0]); err != nil {
				return 0, 0, err
			}
		case oidHold:
		default:
			if e.critical {
				return 0, 0, fmt.Errorf("unknown critical extension %s in an entry", oidText(e.oid))
			}
		}
	}
	return reason, invalidity, nil
}
