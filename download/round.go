package download

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/internal/window"
	"github.com/mooringlib/mooring/download/repo"
)

// Causes for which a connection is ended by ourselves.
var (
	errStalled   = errors.New("no byte came in time")
	errSlow      = errors.New("slower than the floor")
	errReconnect = errors.New("another connection is faster")
	errSwitched  = errors.New("another source takes over")
	errBadChunk  = errors.New("a chunk has other bytes than were signed")
	errNotNeeded = errors.New("this answer is not needed")
	errAllDown   = errors.New("all sources are unavailable")
)

const (
	maxStrikes     = 3
	patienceFactor = 3
	pendingBytes   = 64 << 10
	probeRequest   = 1 << 20 // to a source that has not proven itself
	firstRequest   = 4 << 20
	largestRequest = 32 << 20
	requestTime    = 4 * time.Second
	// worthStealing is how long a connection must still need for its later
	// chunks before another one takes them: what its sender has on the way is
	// sent in vain then.
	worthStealing = time.Second
	gatherBytes   = 16 << 10
	gatherTime    = 100 * time.Millisecond
	scheduleTick  = 100 * time.Millisecond
)

// restingError says that the sources that are left asked to be left alone.
type restingError struct{ until time.Time }

func (e restingError) Error() string { return "sources asked to wait" }

// link is one source in a round. The round's lock guards it.
type link struct {
	Source
	entry    repo.Entry
	win      window.Window
	adapt    adapter
	down     bool // unavailable or left out, for this round
	leftOut  bool
	whole    bool // it ignores ranges
	proven   bool // it answered as asked
	err      *SourceError
	fails    int // in a row
	lastFail time.Time
	strikes  int
	rest     time.Time // asked to be left alone until then
	hold     time.Time // our own pause between failures
	conns    int
	bytes    atomic.Int64
	connRate float64 // bytes per second of one connection
	progress time.Time
	slowAt   time.Time
	slowByte int64
	slowSpan time.Duration
}

func (l *link) has(chunk int) bool { return l.entry.Complete() || l.entry.Have.Contains(chunk) }

// round is one attempt: all links from the first request until the image is
// complete or every link is down.
type round struct {
	j    *job
	im   *partial.Image
	m    *repo.Manifest
	tune Tuning
	wake chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	links   []*link
	current *link
	workers map[*worker]struct{}
	pending map[int][]*link // cut requests that are judged with their chunk
}

func newRound(j *job, im *partial.Image, m *repo.Manifest, offers []offer) *round {
	r := &round{
		j: j, im: im, m: m, tune: j.d.cfg.Tuning, wake: make(chan struct{}, 1),
		workers: map[*worker]struct{}{}, pending: map[int][]*link{},
	}
	now := time.Now()
	for _, o := range offers {
		r.links = append(r.links, &link{
			Source: o.src, entry: o.entry, win: window.New(r.tune.Window, r.tune.FailShare),
			adapt: newAdapter(r.tune.MaxConnections), progress: now, slowAt: now, slowSpan: r.tune.SlowAfter,
		})
	}
	return r
}

// run fetches until the image is complete. It returns nil, errAllDown, a
// restingError, a local error, or the cause of ctx.
func (r *round) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer r.j.report(r, true)
	defer r.wg.Wait()
	defer cancel(errSwitched)
	for _, l := range r.links {
		if !l.entry.Complete() {
			r.wg.Go(func() { r.follow(ctx, l) })
		}
	}
	r.wg.Go(func() { r.checkpoints(ctx) })
	tick := time.NewTicker(scheduleTick)
	defer tick.Stop()
	for {
		switch {
		case r.im.Complete():
			return nil
		case r.im.Err() != nil:
			return r.im.Err()
		}
		if err := r.schedule(ctx); err != nil {
			return err
		}
		r.j.report(r, false)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.wake:
		case <-tick.C:
		}
	}
}

func (r *round) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// checkpoints makes durable what is verified, off the path of the readers.
func (r *round) checkpoints(ctx context.Context) {
	tick := time.NewTicker(r.tune.Checkpoint)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := r.im.Checkpoint(); err != nil {
				r.j.localFailure(err)
				r.poke()
			}
		}
	}
}

// schedule gives every source in use the connections that it should have.
func (r *round) schedule(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.j.localErr(); err != nil {
		return err
	}
	now := time.Now()
	r.watchRates(now)
	active, waiting := r.pick(now)
	if len(active) == 0 && len(r.workers) == 0 && !waiting {
		return r.verdict(now)
	}
	for _, l := range active {
		l.adapt.tick(now, l.bytes.Load(), l.conns >= l.adapt.target)
		// Each source has its share, so that the first does not take them all.
		want := min(l.adapt.target, max(1, r.tune.MaxConnections/len(active)))
		if !l.proven || l.fails > 0 || l.whole {
			want = 1
		}
		for l.conns < want && len(r.workers) < r.tune.MaxConnections && !now.Before(l.hold) {
			seg := r.work(now, l)
			if seg == nil {
				r.hurryTail(now, l)
				break
			}
			r.start(ctx, l, seg)
		}
	}
	return nil
}

// verdict is the end of a round in which nothing can be done any more.
func (r *round) verdict(now time.Time) error {
	var until time.Time
	for _, l := range r.links {
		if !l.down && l.rest.After(now) && (until.IsZero() || l.rest.Before(until)) {
			until = l.rest
		}
	}
	if !until.IsZero() {
		return restingError{until}
	}
	return errAllDown
}

// pick chooses the sources in use: the ones used before stay while they are
// good, then order decides. waiting says that a peer is still growing and worth
// waiting for.
func (r *round) pick(now time.Time) (active []*link, waiting bool) {
	useful := func(l *link) bool {
		if l.down || l.rest.After(now) {
			return false
		}
		return l.conns > 0 || l.entry.Complete() || r.im.Wants(l.has)
	}
	if r.current != nil && useful(r.current) {
		active = append(active, r.current)
	}
	for _, l := range r.links {
		if len(active) < r.tune.MaxSources && l != r.current && useful(l) {
			active = append(active, l)
		}
	}
	if len(active) > 0 {
		r.current = active[0]
		return active, false
	}
	for _, l := range r.links {
		if l.down || l.entry.Complete() || l.rest.After(now) {
			continue
		}
		if l.entry.State == repo.StateDownloading && now.Sub(l.progress) < r.tune.PeerGrace {
			waiting = true
			continue
		}
		if l.conns == 0 {
			l.down = true
			l.err = &SourceError{Source: l.Name, Fault: FaultNotFound, Err: errors.New("it has no more of the image and makes no progress")}
		}
	}
	return nil, waiting
}

// alone reports whether l is the last source that is left.
func (r *round) alone(l *link) bool {
	now := time.Now()
	for _, o := range r.links {
		if o != l && !o.down && !o.rest.After(now) && r.im.Lacks(o.has) {
			return false
		}
	}
	return true
}

// work finds something to fetch for a new connection: missing chunks first, then
// the later half of what another connection has not begun.
func (r *round) work(now time.Time, l *link) *partial.Segment {
	chunk := r.m.Chunks.Size
	size := float64(firstRequest)
	switch {
	case !l.proven || l.fails > 0:
		size = probeRequest
	case l.connRate > 0:
		size = min(l.connRate*requestTime.Seconds(), largestRequest)
	}
	fair := (r.m.Size - r.im.Progress().Verified) / int64(2*max(1, l.adapt.target))
	n := max(1, min(int64(size), fair)/chunk)
	if seg := r.im.Take(l.has, int(n)); seg != nil || l.whole {
		return seg
	}
	var victim *worker
	var most float64
	for w := range r.workers {
		left := float64(w.seg.Left())
		if left == 0 || !l.entry.Complete() {
			continue
		}
		if eta := left / w.expectedRate(now); eta > worthStealing.Seconds() && eta > most {
			victim, most = w, eta
		}
	}
	if victim == nil {
		return nil
	}
	return r.im.Steal(victim.seg)
}

// hurryTail is called when a connection has nothing left to fetch: one that
// would still take long with its last chunk, and much longer than is usual
// here, gives it up at the byte, and a better one goes on there.
func (r *round) hurryTail(now time.Time, l *link) {
	for w := range r.workers {
		left, age := float64(w.left.Load()), now.Sub(w.begun)
		if w.seg.Left() > 0 || left == 0 || age < time.Second || l.connRate == 0 {
			continue
		}
		if eta := left / max(w.rate(), 1); eta > max(1, 3*left/l.connRate+0.5) {
			w.cancel(errReconnect)
		}
	}
}

// watchRates ends the connections of a source that is slower than the floor. The
// floor is for the source, not for a connection.
func (r *round) watchRates(now time.Time) {
	for _, l := range r.links {
		if l.conns == 0 || l.down {
			l.slowAt, l.slowByte = now, l.bytes.Load()
			continue
		}
		if now.Sub(l.slowAt) < l.slowSpan {
			continue
		}
		floor := float64(r.tune.MinRate)
		alone := r.alone(l)
		if alone {
			floor /= 16
		}
		if limit := r.j.d.cfg.Policy.MaxBandwidth; limit > 0 {
			floor = min(floor, float64(limit)/8/4)
		}
		rate := float64(l.bytes.Load()-l.slowByte) / now.Sub(l.slowAt).Seconds()
		l.slowAt, l.slowByte = now, l.bytes.Load()
		if rate >= floor {
			continue
		}
		if alone {
			// A new connection may help; if not, it is given more and more time.
			l.slowSpan *= 2
		}
		for w := range r.workers {
			if w.l == l {
				w.cancel(errSlow)
			}
		}
	}
}

// follow keeps what a growing peer has up to date.
func (r *round) follow(ctx context.Context, l *link) {
	tick := time.NewTicker(4 * r.tune.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		actx, cancel := context.WithTimeoutCause(ctx, r.tune.StallTimeout, errStalled)
		index, err := l.Fetcher.Index(actx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		entry, found := repo.Entry{}, false
		if err == nil {
			entry, found = r.find(index)
		}
		r.mu.Lock()
		switch {
		case err != nil:
			r.failed(l, asked, asSourceError(l.Name, err), false)
		case !found:
			r.exclude(l, &SourceError{Source: l.Name, Fault: FaultNotFound, Err: errors.New("it no longer offers this image")})
		default:
			if entry.Complete() || entry.Have.Count() > l.entry.Have.Count() {
				l.progress = time.Now()
			}
			l.entry = entry
		}
		gone := l.down || l.entry.Complete()
		r.mu.Unlock()
		r.poke()
		if gone {
			return
		}
	}
}

// find returns the entry of our image. An entry that no trusted key signed, or
// that is another image, is not ours.
func (r *round) find(index *repo.Index) (repo.Entry, bool) {
	for _, e := range index.Images {
		if c, err := repo.Peek(e.Envelope); err != nil || c.Version != r.m.Version {
			continue
		}
		if m, err := r.j.d.cfg.Trust.Verify(e.Envelope); err == nil && m.Identity() == r.m.Identity() {
			return e, true
		}
	}
	return repo.Entry{}, false
}

// failed books a request that began at begun and failed. Connections that break
// together are one failure: a request that was under way when the last failure
// was booked says nothing new. The caller holds the lock.
func (r *round) failed(l *link, begun time.Time, err *SourceError, strike bool) {
	l.err = err
	if l.lastFail.IsZero() || !begun.Before(l.lastFail) {
		l.lastFail = time.Now()
		l.fails++
		l.win.Record(true)
	}
	if strike {
		l.strikes++
	}
	r.j.note(err)
	switch {
	case l.strikes >= maxStrikes:
		r.exclude(l, &SourceError{Source: l.Name, Fault: FaultWrongBytes, Err: fmt.Errorf("left out: %w", err.Err)})
	case l.win.Tripped():
		l.down = true
		r.endWorkers(l)
	case r.alone(l):
		l.hold = time.Now().Add(min(100*time.Millisecond<<min(l.fails, 10), 2*time.Second))
	}
}

// exclude leaves a source out for this round, without regard to its window.
func (r *round) exclude(l *link, err *SourceError) {
	l.err, l.down, l.leftOut = err, true, true
	r.j.note(err)
	r.endWorkers(l)
}

func (r *round) endWorkers(l *link) {
	for w := range r.workers {
		if w.l == l {
			w.cancel(errSwitched)
		}
	}
}
