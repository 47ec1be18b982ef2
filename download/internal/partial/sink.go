package partial

import (
	"bytes"
	"sync"
)

// bufferSize is what one read can bring. Large reads save system calls.
const bufferSize = 256 << 10

type bufferPool chan []byte

func newBufferPool(n int) bufferPool {
	if n <= 0 {
		n = 24
	}
	p := make(bufferPool, n)
	for range n {
		p <- nil
	}
	return p
}

// get waits for a buffer: when the disk or the hash is slower than the network,
// reading waits here, and memory stays bounded.
func (p bufferPool) get() []byte {
	b := <-p
	if b == nil {
		b = make([]byte, bufferSize)
	}
	return b
}

func (p bufferPool) put(b []byte) { p <- b[:bufferSize] }

// Segment is a run of chunks that one connection fetches. Its methods are safe
// for concurrent use with [Image.Steal].
type Segment struct {
	im       *Image
	cur, end int // chunks not begun yet
	begun    bool
	stream   bool
	begin    int64
}

// Take reserves up to limit missing chunks that follow one another, all of which
// have says are to be had. It returns nil when there is none.
func (im *Image) Take(have func(int) bool, limit int) *Segment {
	im.mu.Lock()
	defer im.mu.Unlock()
	for im.lowest < len(im.state) && im.state[im.lowest] >= verified {
		im.lowest++
	}
	first := im.lowest
	for first < len(im.state) && (im.state[first] != missing || !have(first)) {
		first++
	}
	if first == len(im.state) {
		return nil
	}
	end := first
	for end < len(im.state) && end-first < limit && im.state[end] == missing && have(end) {
		// A chunk that was begun starts its own request, at its byte.
		if end > first && im.works[end] != nil {
			break
		}
		im.state[end] = busy
		end++
	}
	return im.segment(first, end)
}

func (im *Image) segment(first, end int) *Segment {
	s := &Segment{im: im, cur: first, end: end}
	s.begin, _ = im.cfg.Manifest.ChunkRange(first)
	if w := im.works[first]; w != nil {
		s.begin += w.frontier
	}
	return s
}

// Steal takes the later half of the chunks that s has not begun, or returns nil
// when there is none. The first chunk of a segment is never taken.
func (im *Image) Steal(s *Segment) *Segment {
	im.mu.Lock()
	defer im.mu.Unlock()
	left := s.end - s.cur
	if !s.begun {
		left--
	}
	if s.stream || left < 1 {
		return nil
	}
	mid := s.end - (left+1)/2
	t := im.segment(mid, s.end)
	s.end = mid
	return t
}

// Stream turns the segment into one that takes whatever is missing, for an
// answer that begins at byte 0 whatever was asked.
func (s *Segment) Stream() {
	s.Release()
	s.im.mu.Lock()
	defer s.im.mu.Unlock()
	s.stream, s.cur, s.end = true, 0, len(s.im.state)
}

// Range returns the first byte that the segment wants and the byte after its
// last.
func (s *Segment) Range() (from, to int64) {
	s.im.mu.Lock()
	defer s.im.mu.Unlock()
	off, n := s.im.cfg.Manifest.ChunkRange(s.end - 1)
	return s.begin, off + n
}

// Left returns the bytes of the chunks that are not begun.
func (s *Segment) Left() int64 {
	s.im.mu.Lock()
	defer s.im.mu.Unlock()
	return int64(s.end-s.cur) * s.im.cfg.Manifest.Chunks.Size
}

// Release gives the chunks back that were not begun.
func (s *Segment) Release() {
	s.im.mu.Lock()
	defer s.im.mu.Unlock()
	if !s.stream {
		for i := s.cur; i < s.end; i++ {
			s.im.state[i] = missing
			s.im.lowest = min(s.im.lowest, i)
		}
	}
	s.cur = s.end
}

// Result says how a chunk ended.
type Result struct {
	Chunk    int
	Verified int64 // bytes, when it is verified now
	Bad      bool  // whole, and not the signed bytes
	Blame    string
	Written  int64 // bytes that this sink added
	Err      error // local
}

// Sink takes the bytes of one chunk, in order.
type Sink struct {
	im    *Image
	chunk int
	w     *work
	next  int64 // absolute offset of the next byte to put
	end   int64
	in    chan []byte
}

// Next begins the next chunk of the segment with bytes from the named source,
// and returns nil when the segment has no more. done is called once, from
// another goroutine, after Close; wg counts it.
func (s *Segment) Next(source string, wg *sync.WaitGroup, done func(Result)) *Sink {
	im := s.im
	im.mu.Lock()
	defer im.mu.Unlock()
	if s.stream {
		for s.cur < s.end && im.state[s.cur] != missing {
			s.cur++
		}
	}
	if s.cur >= s.end || im.writeErr != nil {
		return nil
	}
	i := s.cur
	s.cur++
	s.begun = true
	im.state[i] = busy
	w := im.works[i]
	if w == nil {
		w = &work{h: im.cfg.Manifest.Chunks.Algorithm.New()}
		im.works[i] = w
	}
	w.from = addName(w.from, source)
	off, n := im.cfg.Manifest.ChunkRange(i)
	k := &Sink{im: im, chunk: i, w: w, next: off + w.frontier, end: off + n, in: make(chan []byte, 64)}
	wg.Go(func() { done(k.run(off)) })
	return k
}

// Offset returns the position in the image of the next byte to put.
func (k *Sink) Offset() int64 { return k.next }

// Left returns how many bytes the chunk still needs.
func (k *Sink) Left() int64 { return k.end - k.next }

// Buffer waits for a buffer to read into. It goes to Put or to Drop.
func (im *Image) Buffer() []byte { return im.pool.get() }

// Drop gives a buffer back unused.
func (im *Image) Drop(b []byte) { im.pool.put(b) }

// Put hands over bytes; the sink owns b, a buffer of [Image.Buffer], cut to what
// was read.
func (k *Sink) Put(b []byte) {
	k.next += int64(len(b))
	k.in <- b
}

// Close says that no more bytes come.
func (k *Sink) Close() { close(k.in) }

// run writes and hashes until the sink is closed.
func (k *Sink) run(off int64) Result {
	im, r := k.im, Result{Chunk: k.chunk}
	for b := range k.in {
		if r.Err == nil {
			_, err := im.f.WriteAt(b, off+k.w.frontier)
			if err != nil {
				r.Err = err
				im.fail(err)
			} else {
				k.w.h.Write(b)
				k.w.frontier += int64(len(b))
				r.Written += int64(len(b))
				im.writeHint(k.chunk, k.w.frontier)
			}
		}
		im.pool.put(b)
	}
	if k.w.frontier == k.end-off {
		if bytes.Equal(k.w.h.Sum(nil), im.digests[k.chunk]) {
			r.Verified = k.end - off
		} else {
			r.Bad = true
			if len(k.w.from) == 1 {
				r.Blame = k.w.from[0]
			}
		}
	}
	if r.Bad {
		im.writeHint(k.chunk, 0)
	}
	if r.Verified > 0 {
		// The disk begins now, so that the next checkpoint finds little to wait
		// for.
		startWriteback(im.f, off, r.Verified)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	switch {
	case r.Verified > 0:
		im.state[k.chunk] = verified
		im.count(k.chunk)
		delete(im.works, k.chunk)
	default:
		im.state[k.chunk] = missing
		im.lowest = min(im.lowest, k.chunk)
		if r.Bad || k.w.frontier == 0 {
			delete(im.works, k.chunk)
		}
	}
	return r
}
