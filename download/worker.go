package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooringlib/mooring/download/internal/partial"
)

// worker is one request on one connection.
type worker struct {
	r      *round
	l      *link
	seg    *partial.Segment
	cancel context.CancelCauseFunc
	begun  time.Time
	got    atomic.Int64 // bytes received
	left   atomic.Int64 // of the chunk that is being received

	mu       sync.Mutex
	verified int64
	bad      *partial.Result
	cut      *partial.Result // the chunk in which the request ended
}

// rate is the worker's average, in bytes per second.
func (w *worker) rate() float64 {
	return float64(w.got.Load()) / max(time.Since(w.begun).Seconds(), 0.05)
}

// expectedRate is the rate to reckon with: that of other connections to the same
// source while this one is too young to tell.
func (w *worker) expectedRate(now time.Time) float64 {
	if now.Sub(w.begun) < 500*time.Millisecond {
		if w.l.connRate == 0 {
			return math.MaxInt32
		}
		return w.l.connRate
	}
	return max(w.rate(), 1)
}

// start begins a request. The caller holds the round's lock.
func (r *round) start(ctx context.Context, l *link, seg *partial.Segment) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &worker{r: r, l: l, seg: seg, cancel: cancel, begun: time.Now()}
	patience := r.tune.StallTimeout
	if l.fails > 0 && r.alone(l) {
		// Nobody else is there: a link that is down is waited for, instead of
		// using the failures up.
		patience *= patienceFactor
	}
	r.workers[w] = struct{}{}
	l.conns++
	r.wg.Go(func() {
		err := w.fetch(ctx, patience)
		own := errors.Is(err, errNotNeeded)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
			own = !errors.Is(err, errStalled) && !errors.Is(err, errSlow)
		}
		cancel(nil)
		seg.Release()
		w.finish(err, own)
		r.poke()
	})
}

// fetch runs one request to its end. When it returns, every chunk that it
// brought was judged.
func (w *worker) fetch(ctx context.Context, patience time.Duration) error {
	var sinks sync.WaitGroup
	defer sinks.Wait()
	watch := time.AfterFunc(patience, func() { w.cancel(errStalled) })
	defer watch.Stop()
	from, to := w.seg.Range()
	body, err := w.l.Fetcher.Open(ctx, w.r.m, from, to-from)
	if err != nil {
		return err
	}
	defer body.Close()
	if body.Offset < 0 || body.Offset > from || body.Whole && body.Offset != 0 {
		return &SourceError{Fault: FaultProtocol, Err: fmt.Errorf("asked from byte %d, it sends from byte %d", from, body.Offset)}
	}
	if !w.accepted(body.Whole) {
		return errNotNeeded
	}
	in := &intake{w: w, body: body, watch: watch, patience: patience, pos: body.Offset}
	for {
		sink := w.seg.Next(w.l.Name, &sinks, w.judge)
		if sink == nil {
			return nil
		}
		err := in.skip(ctx, sink.Offset())
		if err == nil {
			err = in.fill(ctx, sink)
		}
		sink.Close()
		if err != nil {
			return err
		}
	}
}

// accepted books what the answer says of the source. A source that sends the
// whole image is read by one connection only.
func (w *worker) accepted(whole bool) bool {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !whole {
		if !w.l.proven {
			w.l.proven = true
			r.poke()
		}
		return true
	}
	w.l.whole = true
	if w.l.conns > 1 {
		return false
	}
	if r.im.Progress().Verified > 0 && !r.alone(w.l) {
		// Reading again what we hold is for when nobody else is there.
		r.exclude(w.l, &SourceError{Source: w.l.Name, Fault: FaultProtocol, Err: errors.New("it ignores ranges; another source goes on")})
		return false
	}
	w.seg.Stream()
	return true
}

// intake reads a body in order.
type intake struct {
	w        *worker
	body     io.Reader
	watch    *time.Timer
	patience time.Duration
	pos      int64
}

// read reads into b and books the bytes, at the rate that the limit allows.
func (in *intake) read(ctx context.Context, b []byte) (int, error) {
	lim := in.w.r.j.limiter
	if lim != nil {
		b = b[:min(len(b), lim.Burst())]
	}
	n, err := in.body.Read(b)
	if n > 0 {
		in.pos += int64(n)
		in.w.got.Add(int64(n))
		in.w.l.bytes.Add(int64(n))
		in.w.r.j.received.Add(int64(n))
		if lim != nil {
			in.watch.Stop()
			if werr := lim.WaitN(ctx, n); werr != nil {
				return n, werr
			}
		}
		in.watch.Reset(in.patience)
	}
	return n, err
}

// buffer waits for a buffer. A disk or a hash that is slow is not the source's
// fault: its patience does not run meanwhile.
func (in *intake) buffer() []byte {
	in.watch.Stop()
	b := in.w.r.im.Buffer()
	in.watch.Reset(in.patience)
	return b
}

// skip throws away what we hold already: the beginning of a whole image, or an
// answer that begins on a block boundary.
func (in *intake) skip(ctx context.Context, to int64) error {
	if in.pos > to {
		return &SourceError{Fault: FaultProtocol, Err: errors.New("the answer lies behind what is wanted")}
	}
	if in.pos == to {
		return nil
	}
	b := in.buffer()
	defer in.w.r.im.Drop(b)
	for in.pos < to {
		n, err := in.read(ctx, b[:min(int64(len(b)), to-in.pos)])
		in.w.r.j.wasted.Add(int64(n))
		if err != nil && in.pos < to {
			return cut(err)
		}
	}
	return nil
}

// fill reads one chunk. Small reads are put together, but never so many that a
// killed process would lose more than a chunk over all its connections.
func (in *intake) fill(ctx context.Context, sink *partial.Sink) error {
	for sink.Left() > 0 {
		in.w.left.Store(sink.Left())
		b := in.buffer()
		want := int(min(int64(len(b)), sink.Left()))
		n, err := 0, error(nil)
		for begun := time.Now(); err == nil && n < min(want, gatherBytes) && (n == 0 || time.Since(begun) < gatherTime); {
			var k int
			k, err = in.read(ctx, b[n:want])
			n += k
		}
		if n > 0 {
			sink.Put(b[:n])
		} else {
			in.w.r.im.Drop(b)
		}
		if err != nil && sink.Left() > 0 {
			return cut(err)
		}
	}
	return nil
}

// cut names an end that came too early.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// judge takes the verdict on one chunk.
func (w *worker) judge(res partial.Result) {
	r := w.r
	w.mu.Lock()
	w.verified += res.Verified
	if res.Bad {
		w.bad = &res
	} else if res.Verified == 0 {
		w.cut = &res
	}
	w.mu.Unlock()
	if res.Bad {
		_, n := r.m.ChunkRange(res.Chunk)
		r.j.wasted.Add(n)
		w.cancel(errBadChunk)
	}
	if res.Bad || res.Verified > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		// Requests that were cut inside this chunk are judged with it.
		for _, l := range r.pending[res.Chunk] {
			l.win.Record(res.Bad)
			l.fails = 0
		}
		delete(r.pending, res.Chunk)
	}
}

// finish books the outcome of the request.
func (w *worker) finish(err error, own bool) {
	r, l := w.r, w.l
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.workers, w)
	l.conns--
	if got := w.got.Load(); got > 0 && w.verified > 0 {
		if l.connRate == 0 {
			l.connRate = w.rate()
		}
		l.connRate += (w.rate() - l.connRate) / 4
	}
	if w.bad != nil {
		fault := &SourceError{Source: l.Name, Fault: FaultWrongBytes, Err: fmt.Errorf("chunk %d: %w", w.bad.Chunk, errBadChunk)}
		if w.bad.Blame == l.Name {
			r.failed(l, w.begun, fault, true)
			return
		}
		// Two sources sent parts of it: it is fetched again from one.
		l.err = fault
		l.win.Record(true)
		r.j.note(fault)
		return
	}
	var se *SourceError
	errors.As(err, &se)
	switch {
	case err == nil, w.verified > 0 && !errors.Is(err, errSlow):
		l.win.Record(false)
		l.fails = 0
		if err != nil && !own {
			l.err = asSourceError(l.Name, err)
		}
		if se != nil && se.Fault == FaultProtocol {
			l.strikes++
		}
	case own:
	case se != nil && (se.Fault == FaultNotFound || se.Fault == FaultForbidden || se.Fault == FaultTLS):
		r.exclude(l, asSourceError(l.Name, err))
	case se != nil && se.Fault == FaultBusy:
		l.err = asSourceError(l.Name, err)
		l.rest = time.Now().Add(min(max(se.RetryAfter, time.Second), maxRetryAfter))
		r.j.note(l.err)
	case errors.Is(err, errStalled):
		r.failed(l, w.begun, &SourceError{Source: l.Name, Fault: FaultStalled, Err: err}, false)
	case errors.Is(err, errSlow):
		r.failed(l, w.begun, &SourceError{Source: l.Name, Fault: FaultSlow, Err: err}, false)
	case w.cut != nil && w.cut.Written >= pendingBytes && se == nil:
		r.pending[w.cut.Chunk] = append(r.pending[w.cut.Chunk], l)
		l.err = asSourceError(l.Name, err)
	default:
		fault := asSourceError(l.Name, err)
		r.failed(l, w.begun, fault, fault.Fault == FaultProtocol || fault.Fault == FaultWrongBytes)
	}
}
