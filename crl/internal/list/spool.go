// Package list reads certificate revocation lists (RFC 5280 section 5) of any
// size in bounded memory, in three steps that can't be mixed up because each
// gives the type that the next one needs:
//
//   - Spool copies the bytes to disk while it hashes them. Of the entries it
//     looks at lengths alone, to find where each one begins.
//   - Spooled.Verify checks the signature.
//   - Verified.Entries interprets the entries and returns a sorted index.
package list

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
)

// ID identifies a list by its content. It is SHA-256 over the digest of the
// signed part, made with the hash of its signature algorithm, and the bytes
// around that part, so that the bytes are hashed only once.
type ID [sha256.Size]byte

// Spooled is a list whose bytes are on disk, and whose signature is unknown.
type Spooled struct {
	Header
	// ID identifies the content.
	ID ID
	// Size is the length of the list in DER.
	Size int64
	// Count is the number of entries.
	Count int

	src    io.ReaderAt
	digest []byte
	// chunks are offsets of entries, about chunkSize apart, and the end.
	chunks []int64
}

// File is what Spool needs of a file.
type File interface {
	io.Writer
	io.ReaderAt
}

// Spool reads a list, in DER or PEM, from src up to its end. It writes it in
// DER to dst, which must be empty. The result reads from dst.
func Spool(ctx context.Context, dst File, src io.Reader, lim Limits) (*Spooled, error) {
	r := bufio.NewReaderSize(src, 4096)
	first, err := r.Peek(1)
	if err != nil {
		return nil, readError(err)
	}
	if first[0] == 0x30 {
		// Large reads go past the small buffer.
		return spool(ctx, dst, dst, r, lim)
	}
	body, err := pemBody(r)
	if err != nil {
		return nil, err
	}
	return spool(ctx, dst, dst, body, lim)
}

// Reread is Spool for bytes that Spool has written to disk before.
func Reread(ctx context.Context, src io.ReaderAt, size int64, lim Limits) (*Spooled, error) {
	return spool(ctx, nil, src, io.NewSectionReader(src, 0, size), lim)
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("list is cut off")
	}
	return err
}

// pemBody finds the block "X509 CRL" and returns its decoded content.
func pemBody(r *bufio.Reader) (io.Reader, error) {
	const begin = "-----BEGIN "
	for seen := 0; seen < maxPreamble; {
		line, err := r.ReadSlice('\n')
		if seen += len(line); err != nil {
			return nil, notList(line)
		}
		label, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(begin))
		if !ok {
			continue
		}
		switch string(label) {
		case "X509 CRL-----", "CRL-----":
			return base64.NewDecoder(base64.StdEncoding, &pemReader{r: r}), nil
		}
		return nil, fmt.Errorf("PEM block is %.40q, not \"X509 CRL\"", bytes.TrimRight(label, "-"))
	}
	return nil, errors.New("neither DER nor PEM")
}

func notList(seen []byte) error {
	if low := bytes.ToLower(bytes.TrimSpace(seen)); bytes.HasPrefix(low, []byte("<!doctype")) || bytes.HasPrefix(low, []byte("<html")) {
		return errors.New("a web page, not a list: perhaps a login page stands between")
	}
	return fmt.Errorf("neither DER nor PEM: starts with %.20q", seen)
}

// pemReader passes the base64 text on, up to the line that ends the block.
type pemReader struct {
	r    *bufio.Reader
	line []byte
	done bool
}

func (p *pemReader) Read(b []byte) (int, error) {
	for len(p.line) == 0 {
		if p.done {
			return 0, io.EOF
		}
		line, err := p.r.ReadSlice('\n')
		if bytes.HasPrefix(line, []byte("-----")) {
			if !bytes.HasPrefix(line, []byte("-----END ")) {
				return 0, errors.New("PEM block does not end")
			}
			p.done = true
			continue
		}
		// A line may be longer than the buffer: all of the text may be one.
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return 0, readError(err)
		}
		p.line = bytes.TrimSpace(line)
	}
	n := copy(b, p.line)
	p.line = p.line[n:]
	return n, nil
}

// spooler is the state of one pass over the bytes of a list.
type spooler struct {
	lim    Limits
	out    *Spooled
	have   int64 // bytes seen
	prefix []byte
	parsed bool
	// started is set when the hashing goroutine has its hash.
	started bool
	tail    []byte
	walk    walker
}

func spool(ctx context.Context, dst io.Writer, back io.ReaderAt, src io.Reader, lim Limits) (*Spooled, error) {
	s := &spooler{lim: lim, out: &Spooled{src: back}}
	// Hashing runs beside reading, writing and walking. The channels hold all
	// the buffers there are, so that neither side can block for ever.
	free := make(chan []byte, blocks)
	full := make(chan []byte, blocks)
	for range blocks {
		free <- make([]byte, 0, blockSize)
	}
	hashed := make(chan *hasher, 1)
	start := make(chan *hasher, 1)
	go func() {
		h := <-start
		for b := range full {
			if h != nil {
				h.write(b)
			}
			free <- b[:0]
		}
		hashed <- h
	}()
	err := s.copy(ctx, dst, src, free, full, start)
	if !s.started {
		start <- nil
	}
	close(full)
	h := <-hashed
	if err != nil {
		return nil, err
	}
	s.out.Size = s.have
	s.out.digest, s.out.ID = h.sum()
	return s.out, nil
}

func (s *spooler) copy(ctx context.Context, dst io.Writer, src io.Reader, free, full chan []byte, start chan *hasher) error {
	var held [][]byte // blocks that wait for the prefix to be parsed
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var b []byte
		if len(held) < blocks-1 {
			b = <-free
		} else {
			return errors.New("header of the list does not end")
		}
		n, err := fill(src, b[:cap(b)])
		b = b[:n]
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return readError(err)
		}
		if n > 0 && dst != nil {
			if _, err := dst.Write(b); err != nil {
				return err
			}
		}
		if err := s.take(b, last); err != nil {
			return err
		}
		held = append(held, b)
		if s.parsed {
			if !s.started {
				start <- newHasher(&s.out.Header)
				s.started = true
			}
			for _, b := range held {
				full <- b
			}
			held = held[:0]
		}
		if last {
			return s.end()
		}
	}
}

// fill reads until the buffer is full or the source ends.
func fill(r io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
		err = io.EOF
	}
	return n, err
}

// take looks at the next block.
func (s *spooler) take(b []byte, last bool) error {
	base := s.have
	s.have += int64(len(b))
	if s.have > s.lim.Bytes {
		return fmt.Errorf("list is longer than the limit of %d bytes", s.lim.Bytes)
	}
	if !s.parsed {
		s.prefix = append(s.prefix, b...)
		if err := s.outer(); err != nil {
			return err
		}
		if len(s.prefix) < maxPrefix && !last && int64(len(s.prefix)) < s.out.total {
			return nil
		}
		if err := s.out.parsePrefix(s.prefix); err != nil {
			return err
		}
		s.parsed = true
		s.walk = walker{next: s.out.entriesOff, end: s.out.entriesEnd, out: s.out, limit: s.lim.Entries}
		b, base, s.prefix = s.prefix, 0, nil
	}
	if s.have > s.out.total {
		return errors.New("bytes follow behind the list")
	}
	if err := s.walk.block(b, base); err != nil {
		return err
	}
	if end := s.out.entriesEnd; s.have > end {
		s.tail = append(s.tail, b[max(end-base, 0):]...)
		if len(s.tail) > maxTail {
			return fmt.Errorf("extensions and signature are longer than %d bytes", maxTail)
		}
	}
	return nil
}

// outer refuses what can't be a list, or is too long, from its first bytes.
func (s *spooler) outer() error {
	if s.out.total != 0 || len(s.prefix) < 6 {
		return nil
	}
	if s.prefix[0] != 0x30 {
		return notList(s.prefix[:min(len(s.prefix), 64)])
	}
	n, size, err := length(s.prefix[1:])
	if err != nil {
		return err
	}
	s.out.total = int64(1+n) + size
	if s.out.total > s.lim.Bytes {
		return fmt.Errorf("list says that it is %d bytes long, more than the limit of %d", s.out.total, s.lim.Bytes)
	}
	return nil
}

func (s *spooler) end() error {
	if !s.parsed || s.have < s.out.total {
		return errors.New("list is cut off")
	}
	if err := s.walk.finish(); err != nil {
		return err
	}
	return s.out.parseTail(s.tail, s.lim)
}

// walker hops from entry to entry by their lengths.
type walker struct {
	next, end int64
	out       *Spooled
	limit     int
	carry     []byte
	lastChunk int64
}

func (w *walker) block(b []byte, base int64) error {
	limit := base + int64(len(b))
	for w.next < w.end {
		at := w.next
		var head []byte
		if len(w.carry) > 0 {
			// An entry header that straddles two blocks.
			need := min(6-len(w.carry), len(b))
			head = append(w.carry, b[:need]...)
		} else {
			if at >= limit {
				return nil
			}
			head = b[at-base:]
		}
		n, size, ok := int(0), int64(0), false
		if len(head) >= 2 {
			if head[0] != 0x30 {
				return fmt.Errorf("entry %d is no SEQUENCE", w.out.Count+1)
			}
			if head[1] < 0x80 {
				n, size, ok = 1, int64(head[1]), true
			} else if need := 2 + int(head[1]&0x7f); len(head) >= need || need > 6 {
				var err error
				if n, size, err = length(head[1:]); err != nil {
					return err
				}
				ok = true
			}
		}
		if !ok {
			w.carry = append(w.carry[:0:0], head...)
			return nil
		}
		w.carry = nil
		if size > maxEntry {
			return fmt.Errorf("entry %d is longer than %d bytes", w.out.Count+1, maxEntry)
		}
		if w.out.Count++; w.out.Count > w.limit {
			return fmt.Errorf("list has more than the limit of %d entries", w.limit)
		}
		if len(w.out.chunks) == 0 || at-w.lastChunk >= chunkSize {
			w.out.chunks = append(w.out.chunks, at)
			w.lastChunk = at
		}
		w.next = at + 1 + int64(n) + size
		if w.next > w.end {
			return fmt.Errorf("entry %d is longer than the list of entries", w.out.Count)
		}
	}
	return nil
}

func (w *walker) finish() error {
	if w.next != w.end {
		return errors.New("list is cut off")
	}
	w.out.chunks = append(w.out.chunks, w.end)
	return nil
}

// length reads a definite DER length and returns how many bytes it takes.
func length(b []byte) (n int, size int64, err error) {
	if len(b) == 0 {
		return 0, 0, errors.New("list is cut off")
	}
	if b[0] < 0x80 {
		return 1, int64(b[0]), nil
	}
	k := int(b[0] & 0x7f)
	if k == 0 || k > 4 || len(b) < 1+k {
		return 0, 0, errors.New("length is indefinite, too long or cut off")
	}
	for _, c := range b[1 : 1+k] {
		size = size<<8 | int64(c)
	}
	if size < 0x80 || size>>(8*(k-1)) == 0 {
		return 0, 0, errors.New("length is not in its shortest form")
	}
	return 1 + k, size, nil
}

// hasher hashes the signed part, and what stands around it apart from it.
type hasher struct {
	h          hash.Hash
	around     hash.Hash
	off, start int64
	end        int64
}

func newHasher(h *Header) *hasher {
	return &hasher{h: h.alg.hash.New(), around: sha256.New(), start: h.tbsOff, end: h.tbsEnd}
}

func (h *hasher) write(b []byte) {
	lo := min(max(h.start-h.off, 0), int64(len(b)))
	hi := min(max(h.end-h.off, 0), int64(len(b)))
	h.around.Write(b[:lo])
	h.h.Write(b[lo:hi])
	h.around.Write(b[hi:])
	h.off += int64(len(b))
}

func (h *hasher) sum() (digest []byte, id ID) {
	digest = h.h.Sum(nil)
	h.around.Write(digest)
	h.around.Sum(id[:0])
	return digest, id
}
