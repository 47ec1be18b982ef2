package crl

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/mooringlib/mooring/crl/internal/dist"
	"github.com/mooringlib/mooring/crl/internal/fetch"
	"github.com/mooringlib/mooring/crl/internal/trust"
)

// source is one list to fetch: an address, or several that bring the same.
type source struct {
	urls       []string
	configured bool
	// next is when it is fetched again; zero for at once. backoff is set while
	// it fails.
	next    time.Time
	backoff *backoff.ExponentialBackOff
	// running is set from when it is due until its next time is known.
	running bool
	// busy is not nil while it is fetched, and closed when that ends.
	busy chan struct{}
}

// Learn adds a certificate in use: its distribution points are fetched from, and
// OnRevoked is called when it is, or becomes, revoked.
func (m *Manager) Learn(ctx context.Context, cert *x509.Certificate) {
	m.mu.Lock()
	m.learn(cert)
	loaded := m.loaded
	m.mu.Unlock()
	m.poke()
	if loaded {
		m.report(ctx)
	}
}

// Forget takes a certificate out of use, and with it the distribution points
// that no other one names, and their alarms.
func (m *Manager) Forget(ctx context.Context, cert *x509.Certificate) {
	m.mu.Lock()
	delete(m.inUse, trust.ID(cert))
	m.relearn()
	loaded := m.loaded
	m.mu.Unlock()
	m.poke()
	if loaded {
		if err := m.transaction(ctx, func() error { return nil }); err != nil {
			m.cfg.Logger.Warn("state was not saved", "error", err)
		}
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) learn(cert *x509.Certificate) {
	m.inUse[trust.ID(cert)] = cert
	m.relearn()
}

// relearn works out which addresses the certificates in use and the lists in
// force name. The caller holds mu.
func (m *Manager) relearn() {
	want := make(map[string][]string)
	add := func(uris []string) {
		var usable []string
		for _, u := range uris {
			if fetch.Check(u) == nil {
				usable = append(usable, u)
			}
		}
		if len(usable) > 0 && len(want) < maxSources {
			want[usable[0]] = usable
		}
	}
	for _, cert := range m.inUse {
		for _, e := range cert.Extensions {
			if !e.Id.Equal(oidPoints) && !e.Id.Equal(oidFreshest) {
				continue
			}
			dps, err := dist.Points(e.Value)
			if err != nil {
				m.cfg.Logger.Warn("distribution points can't be read", "subject", cert.Subject.String(), "error", err)
			}
			for _, p := range dps {
				add(p.URIs)
			}
		}
	}
	for _, meta := range m.snapshotMetas() {
		add(meta.Freshest)
	}
	for key, src := range m.sources {
		if !src.configured && want[key] == nil {
			delete(m.sources, key)
		}
	}
	for key, urls := range want {
		if src := m.sources[key]; src == nil {
			m.sources[key] = &source{urls: urls}
		} else if !src.configured {
			src.urls = urls
		}
	}
}

// prune drops what is remembered of addresses that nobody names any more. The
// caller holds mu and the lock of the directory.
func (m *Manager) prune() {
	for _, a := range m.sortedAlarms() {
		if key, ok := strings.CutPrefix(a.ID, "crl."+alarmSource+"/"); ok && m.sources[key] == nil {
			m.clear(alarmSource, key)
		}
	}
	for key := range m.known {
		if m.sources[key] == nil {
			delete(m.known, key)
			m.dirty = true
		}
	}
}

// Run fetches on schedule until ctx ends, and returns its error. It loads the
// directory first when that was not done. Only one Run may be active.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.ready(ctx); err != nil {
		return err
	}
	var rounds sync.WaitGroup
	defer m.client.CloseIdle()
	defer rounds.Wait()
	for {
		// A round runs beside this loop, so that a slow server holds up no
		// other source.
		if keys := m.due(m.cfg.Now()); len(keys) > 0 {
			rounds.Go(func() {
				if err := m.round(ctx, keys, false); err != nil && ctx.Err() == nil {
					m.cfg.Logger.Warn("not every list was fetched", "error", err)
				}
				m.poke()
			})
		}
		timer := time.NewTimer(m.pause(m.cfg.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-m.wake:
			timer.Stop()
		case <-timer.C:
			// Time alone may make lists stale, and other processes may write.
			if err := m.transaction(ctx, func() error { return nil }); err != nil && ctx.Err() == nil {
				m.cfg.Logger.Error("directory can't be used", "error", err)
			}
			m.report(ctx)
		}
	}
}

// ready loads the directory if that was not done, for a method that writes.
func (m *Manager) ready(ctx context.Context) error {
	if m.cfg.ReadOnly {
		return errReadOnly
	}
	m.mu.Lock()
	loaded := m.loaded
	m.mu.Unlock()
	if loaded {
		return nil
	}
	return m.Load(ctx)
}

// due returns the sources whose time has come, and marks them as running.
func (m *Manager) due(now time.Time) (keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, src := range m.sources {
		// A time that is further away than any interval comes from a clock that
		// was set back.
		far := src.next.After(now.Add(m.cfg.PollingInterval + m.cfg.BackoffInterval + tick))
		if !src.running && (far || !src.next.After(now)) {
			src.running = true
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (m *Manager) pause(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait := tick
	for _, src := range m.sources {
		if !src.running {
			wait = min(wait, src.next.Sub(now))
		}
	}
	return max(wait, time.Second)
}

// Fetch fetches every list now, whatever the schedule, and returns the errors of
// those that can't be had.
func (m *Manager) Fetch(ctx context.Context) error {
	if err := m.ready(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	keys := make([]string, 0, len(m.sources))
	for key := range m.sources {
		keys = append(keys, key)
	}
	m.mu.Unlock()
	slices.Sort(keys)
	err := m.round(ctx, keys, true)
	// What the lists themselves name was not known before.
	m.mu.Lock()
	var more []string
	for key := range m.sources {
		if !slices.Contains(keys, key) {
			more = append(more, key)
		}
	}
	m.mu.Unlock()
	if len(more) > 0 {
		slices.Sort(more)
		err = errors.Join(err, m.round(ctx, more, true))
	}
	return err
}

// round fetches some sources, a few at a time. Lists come into force together,
// when nothing is left to begin or much is waiting.
func (m *Manager) round(ctx context.Context, keys []string, forced bool) error {
	if len(keys) == 0 {
		return nil
	}
	var mu sync.Mutex
	var waiting []*outcome
	var size int64
	var errs []error
	next := 0
	conclude := func(outs []*outcome) {
		err := m.conclude(ctx, outs)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		}
		for _, o := range outs {
			if err := o.err(); err != nil {
				errs = append(errs, fmt.Errorf("crl: list from %q: %w", fetch.Redact(o.key), err))
			}
		}
	}
	var wg sync.WaitGroup
	for range min(fetchers, len(keys)) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(keys) || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				key := keys[next]
				next++
				mu.Unlock()
				o := m.fetchOne(ctx, key, forced)
				if o != nil && ctx.Err() != nil && o.err() != nil {
					o = nil // We were stopped; the source did nothing wrong.
				}
				mu.Lock()
				var outs []*outcome
				if o != nil {
					waiting = append(waiting, o)
					if o.staged != nil {
						size += o.staged.meta.Size
					}
				}
				if next == len(keys) || size > 32<<20 { // nothing left to begin, or much to keep
					outs, waiting, size = waiting, nil, 0
				}
				mu.Unlock()
				if len(outs) > 0 {
					conclude(outs)
				}
			}
		})
	}
	wg.Wait()
	if len(waiting) > 0 {
		conclude(waiting)
	}
	m.schedule(keys)
	if err := ctx.Err(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// schedule sets when sources are fetched next.
func (m *Manager) schedule(keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	s := m.snap.Load()
	for _, key := range keys {
		src := m.sources[key]
		if src == nil {
			continue
		}
		src.running = false
		k := m.known[key]
		l := s.held(k.Line)
		fresh := false
		if l != nil && l.signer != nil {
			fresh, _ = l.fresh(now)
		}
		if k.LastError != "" || l != nil && !fresh {
			if src.backoff == nil {
				src.backoff = backoff.NewExponentialBackOff(
					backoff.WithInitialInterval(m.cfg.BackoffInterval),
					backoff.WithMaxInterval(max(maxRetry, m.cfg.BackoffInterval)),
					backoff.WithMaxElapsedTime(0))
			}
			src.next = now.Add(src.backoff.NextBackOff())
			continue
		}
		src.backoff = nil
		wait := m.cfg.PollingInterval
		if l != nil {
			// Ahead of the end by a tenth of what is left, so that there is time to
			// try again.
			left := l.next.Sub(now)
			wait = min(wait, left-left/10)
		}
		src.next = now.Add(wait + spread(min(m.cfg.BackoffInterval, wait/10)))
	}
}

// spread returns a random part of d, so that many routers do not ask at once.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)))
	if err != nil {
		return 0
	}
	return time.Duration(n.Int64())
}

// fetchOne gets one source. It returns nil when another goroutine was at it
// already; then it waits for that one.
func (m *Manager) fetchOne(ctx context.Context, key string, forced bool) *outcome {
	m.mu.Lock()
	src := m.sources[key]
	if src == nil {
		m.mu.Unlock()
		return nil
	}
	if busy := src.busy; busy != nil {
		m.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
		}
		return nil
	}
	busy := make(chan struct{})
	src.busy = busy
	urls, configured, known := slices.Clone(src.urls), src.configured, m.known[key]
	if !m.inForce(known.List) {
		known.ETag, known.LastModified = "", ""
	}
	m.mu.Unlock()
	m.slots <- struct{}{}
	defer func() {
		<-m.slots
		m.mu.Lock()
		src.busy = nil
		m.mu.Unlock()
		close(busy)
	}()
	var last *outcome
	for i, u := range urls {
		r := fetch.Request{URL: u, Guarded: !configured && !m.cfg.AllowPrivate && !m.isConfigured(u), Limit: m.cfg.MaxListBytes + m.cfg.MaxListBytes/2}
		if i == 0 {
			// Validators belong to the first address.
			r.ETag, r.LastModified = known.ETag, known.LastModified
		}
		o := m.get(ctx, r)
		o.key, o.forced = key, forced
		if i > 0 {
			o.etag, o.lastModified = "", ""
		}
		if o.err() == nil {
			return o
		}
		if last != nil {
			o.fetch = errors.Join(last.err(), o.err())
			o.ingest = nil
		}
		last = o
	}
	return last
}

func (m *Manager) isConfigured(u string) bool { return slices.Contains(m.cfg.URLs, u) }

// get fetches, verifies and reads from one address.
func (m *Manager) get(ctx context.Context, r fetch.Request) *outcome {
	o := &outcome{url: r.URL}
	resp, err := m.client.Get(ctx, r)
	if err != nil {
		o.fetch = err
		return o
	}
	if o.notModified = resp.NotModified; o.notModified {
		return o
	}
	defer resp.Body.Close()
	body := &tracker{r: resp.Body}
	o.etag, o.lastModified = resp.ETag, resp.LastModified
	o.staged, err = m.receive(ctx, body, r.URL)
	switch {
	case body.err != nil && err != nil:
		o.fetch = body.err
	case err != nil:
		o.ingest = err
	}
	return o
}
