package download

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/durable"
)

// Policy is what an operator configures about one download.
type Policy struct {
	// EnableTimeout says that Timeout counts.
	EnableTimeout bool
	// Timeout bounds the whole download, waits included; 1800 s to 604800 s.
	// Time spent paused does not count.
	Timeout time.Duration
	// Attempts is how many times all sources may fail; 0 is no limit.
	Attempts int
	// MaxRetryDelay bounds the wait between attempts; 0 s to 86400 s. With 0
	// the wait is one second, so that attempts cannot spin.
	MaxRetryDelay time.Duration
	// MaxBandwidth is the limit in bits per second over all connections, 1 to
	// 999999999999; 0 is unlimited.
	MaxBandwidth int64
}

// DefaultPolicy returns the product's defaults: a timeout of 10800 s, 10
// attempts, waits of at most 3600 s, unlimited bandwidth.
//
// With these, nine waits of 30, 60, .. 1920, 3600, 3600 s are 11010 s, a little
// more than the timeout: when every source stays dead, the timeout ends the
// download, not the attempts.
func DefaultPolicy() Policy {
	return Policy{EnableTimeout: true, Timeout: 10800 * time.Second, Attempts: 10, MaxRetryDelay: 3600 * time.Second}
}

// Validate returns an error for each field that is out of its range. lab also
// allows a timeout below the product's minimum, for tests and demonstrations.
func (p Policy) Validate(lab bool) error {
	var errs []error
	low := minTimeout
	if lab {
		low = time.Millisecond
	}
	if p.Timeout < low || p.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout %s: want 1800 to 604800 seconds", p.Timeout))
	}
	if p.MaxRetryDelay < 0 || p.MaxRetryDelay > maxRetryDelayLimit {
		errs = append(errs, fmt.Errorf("maximum-retry-delay %s: want 0 to 86400 seconds", p.MaxRetryDelay))
	}
	if p.Attempts < 0 || p.Attempts > maxAttempts {
		errs = append(errs, fmt.Errorf("attempts %d: want 0 to %d (0 is no limit)", p.Attempts, maxAttempts))
	}
	if p.MaxBandwidth < 0 || p.MaxBandwidth > maxBandwidthLimit {
		errs = append(errs, fmt.Errorf("max-bandwidth %d: want unlimited, or 1 to %d bits per second", p.MaxBandwidth, int64(maxBandwidthLimit)))
	}
	return errors.Join(errs...)
}

// Tuning holds the engine's constants. The zero value of each field is its
// default.
type Tuning struct {
	// Window and FailShare: a source is unavailable when more than FailShare
	// of its last Window requests failed. Defaults 10 and 0.5.
	Window    int
	FailShare float64
	// QueryTimeout bounds the version query; default 10 s.
	QueryTimeout time.Duration
	// StallTimeout is how long a connection may bring nothing; default 5 s. The
	// last source that is left gets three times as long for a new connection.
	StallTimeout time.Duration
	// MinRate is the floor in bytes per second below which a source is slow,
	// measured over SlowAfter; default 32 KiB/s and 10 s. The last source that
	// is left is given a sixteenth of it.
	MinRate   int64
	SlowAfter time.Duration
	// MaxConnections bounds the connections of a download, over all its sources;
	// default 16. Sources that are used at once share them evenly.
	MaxConnections int
	// MaxSources is how many sources are used at once; default 1.
	MaxSources int
	// Checkpoint is how often verified chunks are made durable; default 1 s.
	Checkpoint time.Duration
	// FirstWait is the first wait between attempts; default 30 s.
	FirstWait time.Duration
	// Jitter takes up to this share off each wait, 0 to 0.5; default 0.
	Jitter float64
	// PeerGrace is how long the second node of a sequenced pair waits for a
	// peer that has nothing yet or makes no progress; default 60 s.
	PeerGrace time.Duration
	// Poll is how often the pause request and a peer's progress are looked at;
	// default 250 ms and four times that.
	Poll time.Duration
}

// Config says how a [Downloader] works.
type Config struct {
	// Pool says where images come from. Required.
	Pool SourcePool
	// Trust holds the keys that may sign manifests. Required.
	Trust *repo.Verifier
	// StateDir keeps status, pause requests and rollback counters. Required.
	StateDir string
	// Policy is DefaultPolicy when nil.
	Policy *Policy
	// Lab allows a Policy below the product's minimum.
	Lab bool
	// Tuning holds constants of the engine.
	Tuning Tuning
	// Progress, when not nil, gets a status at each change of state and a few
	// times a second. It is called from one goroutine at a time.
	Progress func(Status)
	// Wake, when not nil, ends a wait early: a product sends when a link came
	// up.
	Wake <-chan struct{}
	// Alarms and Events may be nil. Node names this node in events.
	Alarms mooring.AlarmSink
	Events mooring.EventSink
	Node   string
	// Logger is silent when nil.
	Logger *slog.Logger
	// Now is the clock for expiry and deadlines; default time.Now.
	Now func() time.Time

	writer durable.Writer
}

func (c *Config) fill() error {
	var errs []error
	if c.Pool == nil {
		errs = append(errs, errors.New("no source pool"))
	}
	if c.Trust == nil {
		errs = append(errs, errors.New("no trusted keys"))
	}
	if c.StateDir == "" {
		errs = append(errs, errors.New("no state directory"))
	}
	if c.Policy == nil {
		p := DefaultPolicy()
		c.Policy = &p
	}
	errs = append(errs, c.Policy.Validate(c.Lab), c.Tuning.fill())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("download: config: %w", err)
	}
	return nil
}

func (t *Tuning) fill() error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New("tuning: "+text))
		}
	}
	setDefault(&t.Window, 10)
	setDefault(&t.FailShare, 0.5)
	setDefault(&t.QueryTimeout, 10*time.Second)
	setDefault(&t.StallTimeout, 5*time.Second)
	setDefault(&t.MinRate, 32<<10)
	setDefault(&t.SlowAfter, 10*time.Second)
	setDefault(&t.MaxConnections, 16)
	setDefault(&t.MaxSources, 1)
	setDefault(&t.Checkpoint, time.Second)
	setDefault(&t.FirstWait, 30*time.Second)
	setDefault(&t.PeerGrace, 60*time.Second)
	setDefault(&t.Poll, 250*time.Millisecond)
	check(t.Window >= 1 && t.Window <= 1000, "window: want 1 to 1000")
	check(t.FailShare > 0 && t.FailShare < 1, "fail share: want above 0 and below 1")
	check(t.MaxConnections >= 1 && t.MaxConnections <= maxConnections, fmt.Sprintf("connections: want 1 to %d", maxConnections))
	check(t.MaxSources >= 1 && t.MaxSources <= maxSources, fmt.Sprintf("sources at once: want 1 to %d", maxSources))
	check(t.Jitter >= 0 && t.Jitter <= 0.5, "jitter: want 0 to 0.5")
	for _, d := range []time.Duration{t.QueryTimeout, t.StallTimeout, t.SlowAfter, t.Checkpoint, t.FirstWait, t.PeerGrace, t.Poll} {
		check(d > 0, "a duration is negative")
	}
	check(t.MinRate > 0, "minimum rate is negative")
	return errors.Join(errs...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
