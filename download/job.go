package download

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
)

var errPaused = errors.New("paused")

// diskFull begins the reason of a pause that the next call may end by itself.
const diskFull = "disk full"

// job is one call of Download.
type job struct {
	d        *Downloader
	req      Request
	limiter  *rate.Limiter
	received atomic.Int64
	wasted   atomic.Int64

	mu         sync.Mutex
	st         Status
	local      error
	sources    map[string]*SourceError // the last error of each
	order      []string
	meter      rateMeter
	reported   time.Time // when the status was last written
	lastReport time.Time
	image      *partial.Image
	peerDone   bool // the second node no longer waits for the first
}

func newJob(d *Downloader, req Request) *job {
	j := &job{d: d, req: req, sources: map[string]*SourceError{}}
	if bits := d.cfg.Policy.MaxBandwidth; bits > 0 {
		perSecond := float64(bits) / 8
		// 20 ms of burst keeps the worst second near the limit.
		burst := min(max(int(perSecond/50), 512), 64<<10)
		j.limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
	}
	return j
}

// run is the whole download: attempts, waits, pauses.
func (j *job) run(ctx context.Context) error {
	j.begin()
	defer func() {
		if j.image != nil {
			_ = j.image.Close()
		}
	}()
	for {
		if err := j.standStill(ctx); err != nil {
			return err
		}
		if err := j.timedOut(); err != nil {
			return err
		}
		err := j.untilPause(ctx, j.attempts)
		if !errors.Is(err, errPaused) || ctx.Err() != nil {
			return j.judge(ctx, err)
		}
	}
}

// begin takes the budget of an earlier call over when that call did not end, so
// that a restart gives neither more attempts nor more time.
func (j *job) begin() {
	p, now := j.d.cfg.Policy, j.d.cfg.Now()
	j.st = Status{Version: j.req.Version, Out: j.req.Out, State: StateQuerying, Attempt: 1, Attempts: p.Attempts, Started: now, TimeLeft: -1, Sequenced: j.req.Sequenced}
	if p.EnableTimeout {
		j.st.Deadline = now.Add(p.Timeout)
	}
	old, err := j.d.store.Show(j.req.Version)
	if err != nil {
		if !errors.Is(err, ErrUnknown) {
			j.d.cfg.Logger.Warn("the last status cannot be read; the download has a new budget", "version", j.req.Version, "error", err)
		}
		old = Status{}
	}
	if old.State != StateComplete && old.State != StateFailed && old.Attempt > 0 {
		j.st.Attempt, j.st.Started = old.Attempt, old.Started
		if p.EnableTimeout && !old.Deadline.IsZero() {
			j.st.Deadline = old.Deadline
		}
	}
	if p, paused := j.d.store.paused(j.req.Version); paused && strings.HasPrefix(p.Reason, diskFull) {
		// Whoever calls again has made room, or will be told again. The new
		// deadline is on the disk before the pause is gone.
		if !j.st.Deadline.IsZero() && j.st.Deadline.Equal(old.Deadline) {
			j.st.Deadline = p.extend(j.st.Deadline, now)
			old.Deadline = j.st.Deadline
			if err := j.d.store.save(old, true); err != nil {
				j.d.cfg.Logger.Warn("the status could not be written", "error", err)
			}
		}
		_ = j.d.store.writer.Remove(j.d.store.file(j.req.Version, "pause"))
	}
}

// standStill waits while the download is paused, and gives the time back.
func (j *job) standStill(ctx context.Context) error {
	pause, paused := j.d.store.paused(j.req.Version)
	if !paused {
		return nil
	}
	j.set(StatePaused, pause.Reason)
	tick := time.NewTicker(j.d.cfg.Tuning.Poll)
	defer tick.Stop()
	for paused {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		_, paused = j.d.store.paused(j.req.Version)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.st.Deadline = pause.extend(j.st.Deadline, j.d.cfg.Now())
	return nil
}

func (j *job) timedOut() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.st.Deadline.IsZero() && !j.d.cfg.Now().Before(j.st.Deadline) {
		return j.failureLocked(ErrTimeout)
	}
	return nil
}

// untilPause runs f until it ends, the timeout passes, or somebody pauses.
func (j *job) untilPause(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if !j.st.Deadline.IsZero() {
		end := time.AfterFunc(j.st.Deadline.Sub(j.d.cfg.Now()), func() { cancel(ErrTimeout) })
		defer end.Stop()
	}
	wg.Go(func() {
		tick := time.NewTicker(j.d.cfg.Tuning.Poll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, paused := j.d.store.paused(j.req.Version); paused {
				cancel(errPaused)
				return
			}
		}
	})
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// attempts runs attempt after attempt, with the waits between them.
func (j *job) attempts(ctx context.Context) error {
	p := j.d.cfg.Policy
	waits := j.waits()
	for range j.st.Attempt - 1 {
		waits.NextBackOff()
	}
	for {
		err := j.attempt(ctx)
		var resting restingError
		switch {
		case errors.As(err, &resting):
			// A source that asks for patience costs no attempt.
			if err := j.wait(ctx, time.Until(resting.until), "sources asked to wait"); err != nil {
				return err
			}
			continue
		case !errors.Is(err, errAllDown):
			return err
		}
		if p.Attempts > 0 && j.st.Attempt >= p.Attempts {
			return j.failure(ErrAttempts)
		}
		pause := waits.NextBackOff()
		pause -= time.Duration(j.d.cfg.Tuning.Jitter * fraction() * float64(pause))
		j.mu.Lock()
		j.st.Attempt++
		j.mu.Unlock()
		if err := j.wait(ctx, pause, "all sources are unavailable"); err != nil {
			return err
		}
	}
}

// waits doubles from the first wait up to the maximum retry delay.
func (j *job) waits() *backoff.ExponentialBackOff {
	longest := max(j.d.cfg.Policy.MaxRetryDelay, 0)
	if longest == 0 {
		longest = time.Second
	}
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(min(j.d.cfg.Tuning.FirstWait, longest)),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxInterval(longest),
		backoff.WithMaxElapsedTime(0),
	)
}

// wait stands still until the pause is over, the link is reported up, or ctx
// ends.
func (j *job) wait(ctx context.Context, pause time.Duration, reason string) error {
	j.mu.Lock()
	j.st.NextAttempt = j.d.cfg.Now().Add(pause)
	j.mu.Unlock()
	j.set(StateWaiting, reason)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	defer func() {
		j.mu.Lock()
		j.st.NextAttempt = time.Time{}
		j.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	case <-j.d.cfg.Wake:
	}
	return nil
}

// attempt asks all sources and fetches from those that have the image.
func (j *job) attempt(ctx context.Context) error {
	j.set(StateQuerying, "")
	sources, err := j.d.cfg.Pool.Sources(ctx)
	if err != nil {
		j.d.cfg.Logger.Warn("the source pool failed", "error", err)
		return errAllDown
	}
	if j.req.Sequenced == RoleSecond && !j.peerDone {
		err := j.fromPeer(ctx, sources)
		if !errors.Is(err, errAllDown) {
			return err
		}
		j.peerDone = true
	}
	_, err = j.fetch(ctx, sources, false)
	return err
}

// fromPeer waits for the first node of a sequenced pair and takes the image from
// it while it grows. errAllDown says that the peer is of no (more) use.
func (j *job) fromPeer(ctx context.Context, sources []Source) error {
	peers := slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return s.Kind != KindPeer })
	grace := j.d.cfg.Tuning.PeerGrace
	for until := time.Now().Add(grace); len(peers) > 0; {
		offered, err := j.fetch(ctx, peers, true)
		if offered || !errors.Is(err, errAllDown) {
			return err
		}
		left := time.Until(until)
		if left <= 0 {
			break
		}
		if err := j.wait(ctx, min(4*j.d.cfg.Tuning.Poll, left), "the peer has not begun yet"); err != nil {
			return err
		}
	}
	return errAllDown
}

// fetch runs one round. offered tells whether any source has the image.
func (j *job) fetch(ctx context.Context, sources []Source, sequenced bool) (offered bool, err error) {
	answers := j.d.query(ctx, sources, j.req.Version)
	if err := ctx.Err(); err != nil {
		return false, context.Cause(ctx)
	}
	memory, err := j.d.store.counters()
	if err != nil {
		return false, err
	}
	m, offers, refused, err := j.d.choose(answers, memory)
	for _, e := range refused {
		j.note(e)
	}
	if err != nil {
		return false, fmt.Errorf("download: %w", err)
	}
	if m == nil {
		if resting, until := busy(answers); resting {
			return false, restingError{until}
		}
		if !sequenced && final(answers) {
			return false, j.failure(ErrNoVersion)
		}
		return false, errAllDown
	}
	if err := j.d.store.accept(ctx, m, j.d.cfg.Now()); err != nil {
		return false, err
	}
	if err := j.open(ctx, m, offers); err != nil {
		return true, err
	}
	state := StateDownloading
	if sequenced {
		state = StatePeer
	}
	j.set(state, "")
	for {
		if err := newRound(j, j.image, m, offers).run(ctx); err != nil {
			// What was verified stays, whatever comes next.
			if cerr := j.image.Checkpoint(); cerr != nil {
				return true, cerr
			}
			return true, err
		}
		err := j.image.Finish(ctx)
		if !errors.Is(err, partial.ErrDamaged) {
			return true, err
		}
		// It happens once at most: what is fetched now was verified here.
		j.d.cfg.Logger.Warn("bytes are fetched again", "error", err)
	}
}

// busy reports whether every source that failed to answer asked for patience.
func busy(answers []answer) (bool, time.Time) {
	var until time.Time
	for _, a := range answers {
		if a.err == nil {
			continue
		}
		if a.err.Fault != FaultBusy {
			return false, until
		}
		at := time.Now().Add(min(max(a.err.RetryAfter, time.Second), maxRetryAfter))
		if until.IsZero() || at.Before(until) {
			until = at
		}
	}
	return !until.IsZero(), until
}

// open gets the chunk list and takes the partial file over. An image that is
// open already and is the same one stays open.
func (j *job) open(ctx context.Context, m *repo.Manifest, offers []offer) error {
	j.mu.Lock()
	j.st.Size, j.st.SHA256 = m.Size, &m.SHA256
	same := j.image != nil && j.image.Identity() == m.Identity()
	j.mu.Unlock()
	if same {
		return nil
	}
	list, err := j.chunkList(ctx, m, offers)
	if err != nil {
		return err
	}
	if j.image != nil {
		_ = j.image.Close()
	}
	im, err := partial.Open(partial.Config{Path: j.req.Out, Manifest: m, List: list, Writer: j.d.cfg.writer, Buffers: j.d.cfg.Tuning.MaxConnections + 8})
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.image = im
	j.mu.Unlock()
	return nil
}

// chunkList takes the list that stands beside the image from an earlier call, or
// asks the sources in their order. Whoever sends it, it is the signed one.
func (j *job) chunkList(ctx context.Context, m *repo.Manifest, offers []offer) ([]byte, error) {
	if list, err := partial.StoredList(j.req.Out, m); err == nil {
		return list, nil
	}
	for _, o := range offers {
		for range 3 {
			lctx, cancel := context.WithTimeoutCause(ctx, j.d.cfg.Tuning.QueryTimeout, errStalled)
			list, err := o.src.Fetcher.ChunkList(lctx, m)
			cancel()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err == nil {
				if _, err = m.ParseChunkList(list); err == nil {
					return list, nil
				}
				err = &SourceError{Fault: FaultWrongBytes, Err: err}
			}
			j.note(asSourceError(o.src.Name, err))
		}
	}
	return nil, errAllDown
}

// judge turns the end of the work into the end of the download.
func (j *job) judge(ctx context.Context, err error) error {
	var space *SpaceError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrTimeout):
		return j.failure(ErrTimeout)
	case errors.As(err, &space):
		if perr := j.d.store.writePause(j.req.Version, space.Error()); perr != nil {
			j.d.cfg.Logger.Warn("the pause could not be written down", "error", perr)
		}
	}
	return err
}

func (j *job) failure(reason error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failureLocked(reason)
}

// failureLocked is the end, with what every source did. The caller holds the
// lock.
func (j *job) failureLocked(reason error) error {
	f := &FailedError{Version: j.req.Version, Reason: reason}
	for _, name := range j.order {
		f.Sources = append(f.Sources, j.sources[name])
	}
	return f
}

// fraction returns a random number from 0 to below 1.
func fraction() float64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // It never fails (crypto/rand).
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}
