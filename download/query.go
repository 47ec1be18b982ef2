package download

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/mooringlib/mooring/download/repo"
)

const (
	// queryLinger is how long the others may still take when one source has
	// answered with the wanted version.
	queryLinger = 3 * time.Second
	// queryRetry is the pause before a source is asked again; it doubles.
	queryRetry = 300 * time.Millisecond
	queryTries = 4
)

// Availability is what one source has of one version.
type Availability struct {
	Source   string     `json:"source"`
	Kind     Kind       `json:"kind"`
	State    repo.State `json:"state"`
	Chunks   int        `json:"chunks"` // how many of the image's chunks are there
	Counter  uint64     `json:"counter"`
	Identity string     `json:"identity"`
	Expires  time.Time  `json:"expires"`
	// Problem says why this offer would be refused.
	Problem string `json:"problem,omitempty"`
}

// Listing is one version and where it is.
type Listing struct {
	Version string         `json:"version"`
	Size    int64          `json:"size"`
	SHA256  repo.Digest    `json:"sha256"`
	Sources []Availability `json:"sources"`
}

// offer is a verified manifest at a source.
type offer struct {
	src   Source
	m     *repo.Manifest
	entry repo.Entry
}

// answer is what one source said.
type answer struct {
	src    Source
	offers []offer
	err    *SourceError   // the source did not answer
	bad    []*SourceError // manifests that were refused
}

// query asks all sources side by side. With a version, only that one is looked
// at, and when one source has it the others are not waited for much longer.
func (d *Downloader) query(ctx context.Context, sources []Source, version string) []answer {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Tuning.QueryTimeout, errors.New("no answer in time"))
	defer cancel()
	out := make([]answer, len(sources))
	found := make(chan struct{}, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() {
			out[i] = d.ask(ctx, s, version)
			if version != "" && len(out[i].offers) > 0 {
				found <- struct{}{}
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
		return out
	case <-found:
	}
	linger := time.NewTimer(queryLinger)
	defer linger.Stop()
	select {
	case <-all:
	case <-linger.C:
		cancel()
		<-all
	}
	return out
}

// ask reads the index of one source, again after a fault that may pass.
func (d *Downloader) ask(ctx context.Context, s Source, version string) answer {
	a := answer{src: s}
	for try := 1; ; try++ {
		index, err := s.Fetcher.Index(ctx)
		if err == nil {
			d.look(&a, index, version)
			return a
		}
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			if a.err == nil {
				a.err = &SourceError{Source: s.Name, Fault: FaultStalled, Err: cause}
			}
			return a
		}
		a.err = asSourceError(s.Name, err)
		switch a.err.Fault {
		case FaultNotFound, FaultForbidden, FaultTLS, FaultBusy:
			return a
		}
		if try == queryTries {
			return a
		}
		wait := time.NewTimer(queryRetry << (try - 1))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return a
		}
	}
}

func (d *Downloader) look(a *answer, index *repo.Index, version string) {
	a.err = nil
	best := map[string]int{}
	for _, e := range index.Images {
		if claimed, err := repo.Peek(e.Envelope); version != "" && (err != nil || claimed.Version != version) {
			continue
		}
		m, err := d.cfg.Trust.Verify(e.Envelope)
		if err != nil {
			a.bad = append(a.bad, &SourceError{Source: a.src.Name, Fault: FaultManifest, Err: err})
			continue
		}
		o := offer{src: a.src, m: m, entry: e}
		if at, twice := best[m.Version]; twice {
			if m.Counter > a.offers[at].m.Counter {
				a.offers[at] = o
			}
			continue
		}
		best[m.Version] = len(a.offers)
		a.offers = append(a.offers, o)
	}
}

// refusal says why a manifest may not be used, or nil.
func (d *Downloader) refusal(m *repo.Manifest, memory map[string]counter) error {
	if err := m.CheckExpiry(d.cfg.Now()); err != nil {
		return err
	}
	old, known := memory[m.Version]
	switch {
	case !known || m.Counter > old.Counter:
		return nil
	case m.Counter < old.Counter:
		return fmt.Errorf("%w: counter %d, accepted before %d", ErrRollback, m.Counter, old.Counter)
	case m.Identity() != old.Identity:
		return fmt.Errorf("%w: counter %d was accepted before for another image", ErrConflict, m.Counter)
	}
	return nil
}

// choose picks the manifest with the highest counter and the sources that offer
// that image. Everything else ends up in refused, with its name.
func (d *Downloader) choose(answers []answer, memory map[string]counter) (m *repo.Manifest, use []offer, refused []*SourceError, err error) {
	var good []offer
	for _, a := range answers {
		if a.err != nil {
			refused = append(refused, a.err)
			continue
		}
		refused = append(refused, a.bad...)
		if len(a.offers) == 0 && len(a.bad) == 0 {
			refused = append(refused, &SourceError{Source: a.src.Name, Fault: FaultNotFound, Err: ErrNoVersion})
		}
		for _, o := range a.offers {
			if err := d.refusal(o.m, memory); err != nil {
				refused = append(refused, &SourceError{Source: a.src.Name, Fault: FaultManifest, Err: err})
				continue
			}
			good = append(good, o)
		}
	}
	for _, o := range good {
		if m == nil || o.m.Counter > m.Counter {
			m = o.m
		}
	}
	for _, o := range good {
		switch {
		case o.m.Identity() == m.Identity():
			use = append(use, o)
		case o.m.Counter == m.Counter:
			return nil, nil, refused, fmt.Errorf("%w: %s and %s offer different images as version %q with counter %d",
				ErrConflict, use[0].src.Name, o.src.Name, m.Version, m.Counter)
		default:
			refused = append(refused, &SourceError{Source: o.src.Name, Fault: FaultManifest,
				Err: fmt.Errorf("offers another image: its manifest has counter %d, the newest has %d", o.m.Counter, m.Counter)})
		}
	}
	return m, use, refused, nil
}

// final reports whether asking again cannot help: every source answered, and
// none has anything that may be used.
func final(answers []answer) bool {
	for _, a := range answers {
		if a.err != nil {
			return false
		}
	}
	return len(answers) > 0
}

// Versions asks all sources side by side and returns what they have, by
// version, and the error of every source that did not answer or whose manifests
// were refused. It changes nothing.
func (d *Downloader) Versions(ctx context.Context) ([]Listing, []*SourceError, error) {
	sources, err := d.cfg.Pool.Sources(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("download: sources: %w", err)
	}
	memory, err := d.store.counters()
	if err != nil {
		return nil, nil, err
	}
	var problems []*SourceError
	byVersion := map[string]*Listing{}
	newest := map[string]uint64{}
	for _, a := range d.query(ctx, sources, "") {
		if a.err != nil {
			problems = append(problems, a.err)
		}
		problems = append(problems, a.bad...)
		for _, o := range a.offers {
			l := byVersion[o.m.Version]
			if l == nil {
				l = &Listing{Version: o.m.Version}
				byVersion[o.m.Version] = l
			}
			if o.m.Counter >= newest[o.m.Version] {
				newest[o.m.Version] = o.m.Counter
				l.Size, l.SHA256 = o.m.Size, o.m.SHA256
			}
			av := Availability{
				Source: o.src.Name, Kind: o.src.Kind, State: repo.StateComplete, Chunks: o.m.Count(),
				Counter: o.m.Counter, Identity: o.m.Identity().String(), Expires: o.m.Expires,
			}
			if !o.entry.Complete() {
				av.State, av.Chunks = o.entry.State, o.entry.Have.Count()
			}
			if err := d.refusal(o.m, memory); err != nil {
				av.Problem = err.Error()
			}
			l.Sources = append(l.Sources, av)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, problems, err
	}
	out := make([]Listing, 0, len(byVersion))
	for _, l := range byVersion {
		for i := range l.Sources {
			if av := &l.Sources[i]; av.Problem == "" && av.Counter < newest[l.Version] {
				av.Problem = fmt.Sprintf("another source has a newer manifest (counter %d)", newest[l.Version])
			}
		}
		out = append(out, *l)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Version < out[j].Version })
	return out, problems, nil
}
