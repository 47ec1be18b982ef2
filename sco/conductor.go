package sco

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mooringlib/mooring/sco/internal/admit"
	"github.com/mooringlib/mooring/sco/internal/jot"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// ConductorConfig configures a [Conductor].
type ConductorConfig struct {
	// Registry is required.
	Registry *Registry
	// Settings is required.
	Settings SettingsFunc
	// Limits bounds what strangers can cost; the zero value has defaults.
	Limits Limits
	// Logger is nil for silence.
	Logger *slog.Logger
}

// Limits bounds connections to the onboarding port. A prefix is a /24 of IPv4 or
// a /64 of IPv6.
type Limits struct {
	// Connections is how many there are at one time; 512 when zero. When all
	// are taken, the prefix that holds most loses its oldest one that has not
	// proved anything yet.
	Connections int
	// PerPrefix is how many of them one prefix may have; 32 when zero.
	PerPrefix int
	// Rate is how many connections a second one prefix may open in the long
	// run, 20 when zero, and Burst how many at once, 64 when zero.
	Rate  float64
	Burst int
}

// Conductor serves the onboarding port. It is safe for concurrent use.
type Conductor struct {
	cfg      ConductorConfig
	gate     *admit.Gate
	refusals *refusalLog
	decoy    Secret

	mu      sync.Mutex
	snap    *snapshot
	running map[string]int // attempts by asset-id
}

// NewConductor checks the configuration. It does no I/O.
func NewConductor(cfg ConductorConfig) (*Conductor, error) {
	var errs []error
	if cfg.Registry == nil {
		errs = append(errs, errors.New("sco: ConductorConfig.Registry is missing"))
	}
	if cfg.Settings == nil {
		errs = append(errs, errors.New("sco: ConductorConfig.Settings is missing"))
	}
	l := &cfg.Limits
	if l.Connections < 0 || l.PerPrefix < 0 || l.Rate < 0 || l.Burst < 0 {
		errs = append(errs, errors.New("sco: ConductorConfig.Limits has a negative value"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	setDefault(&l.Connections, 512)
	setDefault(&l.PerPrefix, 32)
	setDefault(&l.Rate, 20)
	setDefault(&l.Burst, 64)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Conductor{
		cfg:      cfg,
		gate:     admit.New(admit.Config{Total: l.Connections, PerPrefix: l.PerPrefix, Rate: l.Rate, Burst: l.Burst}),
		refusals: newRefusalLog(),
		decoy:    NewSecret(),
		running:  map[string]int{},
	}, nil
}

func setDefault[T int | float64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Serve onboards the routers that connect to ln until ctx ends; then it closes
// ln, ends what is running and returns nil. It may be called for several
// listeners.
func (c *Conductor) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for delay := time.Duration(0); ; {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("sco: serving the onboarding port: %w", err)
			}
			// Out of file descriptors, or a connection that was reset in
			// the queue: neither is a reason to stop serving.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			c.cfg.Logger.Warn("onboarding port: accept failed", slog.Any("err", err), slog.Duration("retry", delay))
			sleep(ctx, delay)
			continue
		}
		delay = 0
		slot, why := c.gate.Admit(conn.RemoteAddr(), c.cfg.Registry.now(), func() { _ = conn.Close() })
		if slot == nil {
			_ = conn.Close()
			c.shed(ctx, conn.RemoteAddr(), why)
			continue
		}
		wg.Go(func() {
			defer slot.Release()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			c.serve(ctx, conn, slot)
		})
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// shed tells about connections that were turned away unseen, but not about each.
func (c *Conductor) shed(ctx context.Context, remote net.Addr, why string) {
	if n, ok := c.refusals.due("shed\x00"+why, c.cfg.Registry.now()); ok {
		c.cfg.Logger.WarnContext(ctx, "onboarding port: connection refused",
			slog.String("remote", remote.String()), slog.String("reason", why), slog.Int("suppressed", n))
	}
}

// snapshot is what is derived from settings, kept while they stay the same.
type snapshot struct {
	settings *Settings
	tls      *tls.Config
	tokens   *jot.Verifier
	hostKeys [][]byte
	err      error
	checked  time.Time
}

func (c *Conductor) snapshot(ctx context.Context) (*snapshot, error) {
	s, err := c.cfg.Settings(ctx)
	if err != nil {
		return nil, fmt.Errorf("sco: reading the conductor's settings: %w", err)
	}
	if s == nil {
		s = &Settings{}
	}
	now := c.cfg.Registry.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.snap
	// Certificates may expire while the settings stay the same, hence the
	// age.
	if old == nil || old.settings != s || now.Sub(old.checked).Abs() > time.Second {
		fresh := &snapshot{settings: s, checked: now, err: s.check(now)}
		if fresh.err == nil {
			if old != nil && old.settings == s && old.err == nil {
				fresh.tls, fresh.tokens, fresh.hostKeys = old.tls, old.tokens, old.hostKeys
			} else {
				fresh.tls, fresh.tokens = serverTLS(s), jot.NewVerifier(s.Certificate, s.CA)
				for _, k := range s.SSHHostKeys {
					fresh.hostKeys = append(fresh.hostKeys, k.Marshal())
				}
			}
		}
		c.snap = fresh
	}
	return c.snap, c.snap.err
}

func serverTLS(s *Settings) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: curves(),
		NextProtos:       []string{wire.ALPN},
		// A resumed session would not prove the certificate's key again.
		SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{s.Certificate.Raw},
			PrivateKey:  s.Key,
			Leaf:        s.Certificate,
		}},
	}
}

func curves() []tls.CurveID {
	return []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384}
}

// serve runs one connection.
func (c *Conductor) serve(ctx context.Context, conn net.Conn, slot *admit.Slot) {
	log := c.cfg.Logger.With(slog.String("remote", conn.RemoteAddr().String()))
	snap, err := c.snapshot(ctx)
	if err != nil {
		log.ErrorContext(ctx, "onboarding port: cannot serve", slog.Any("err", err))
		return
	}
	tc := tls.Server(conn, snap.tls)
	_ = conn.SetDeadline(time.Now().Add(tlsTimeout))
	// The end of ctx closes the connection, so the handshake needs no context
	// of its own, and the goroutine that comes with one.
	if err := tc.Handshake(); err != nil {
		log.DebugContext(ctx, "onboarding port: TLS handshake failed", slog.Any("err", err))
		return
	}
	a := &attempt{c: c, conn: tc, snap: snap, slot: slot, remote: conn.RemoteAddr().String(), at: c.cfg.Registry.now(), began: time.Now()}
	// After success the connection is just closed, without an alert: the last
	// message was the router's, and it is authenticated.
	if err = a.run(ctx); err == nil {
		return
	}
	if ctx.Err() != nil {
		return
	}
	c.refused(ctx, a, err)
	if !a.accepted {
		// The same bytes for every reason, and as far as possible at the same
		// time: recording takes longer for a router that exists.
		sleep(ctx, refuseDelay-time.Since(a.began))
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_ = wire.WriteMessage(tc, wire.TypeRefuse, nil)
		_ = tc.Close()
	}
}

// begin counts an attempt of an asset-id, unless there are too many.
func (c *Conductor) begin(assetID string) (end func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[assetID] >= maxAttempts {
		return nil, false
	}
	c.running[assetID]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running[assetID]--; c.running[assetID] == 0 {
			delete(c.running, assetID)
		}
	}, true
}

// refused records why an attempt ended: in the log, the audit record, and the
// router's state. A client that has not shown that it knows the secret can cause
// only a bounded number of records.
func (c *Conductor) refused(ctx context.Context, a *attempt, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = refuse("the attempt was not finished: %v", err)
		r.proven = a.proven
	}
	reg := c.cfg.Registry
	suppressed := 0
	if !r.proven {
		key := r.class
		if a.known {
			key += "\x00" + a.router + "\x00" + a.assetID
		}
		var due bool
		if suppressed, due = c.refusals.due(key, a.at); !due {
			return
		}
	}
	c.cfg.Logger.WarnContext(ctx, "onboarding refused", slog.String("remote", a.remote), slog.String("router", a.router),
		slog.String("asset-id", a.assetID), slog.String("reason", r.reason), slog.Int("suppressed", suppressed))
	reg.event(ctx, eventRefused, fmt.Sprintf("onboarding of asset-id %.140q refused: %s", a.assetID, r.reason), false, eventDetail{
		Router: a.router, AssetID: a.assetID, Evidence: a.evidence(), Remote: a.remote, Reason: r.reason, Suppressed: suppressed,
	})
	if !a.known {
		return
	}
	uerr := reg.updateNode(ctx, a.router, a.assetID, func(_ *Router, n *Node) error {
		if d := n.Status.LastAttempt.Sub(a.at); d > 0 && d < maxAttemptTime {
			// A later attempt has ended before this one was given up. More
			// than an attempt can take comes from a clock that was set back.
			return errUnchanged
		}
		n.Status.LastAttempt, n.Status.LastError = a.at, r.reason
		return nil
	})
	if uerr != nil && !errors.Is(uerr, ErrNotFound) {
		c.cfg.Logger.ErrorContext(ctx, "recording a refused attempt failed", slog.String("router", a.router), slog.Any("err", uerr))
	}
}

// refusalLog thins out what strangers can cause to be written.
type refusalLog struct {
	mu   sync.Mutex
	last map[string]*refusalEntry
}

type refusalEntry struct {
	at         time.Time
	suppressed int
}

func newRefusalLog() *refusalLog { return &refusalLog{last: map[string]*refusalEntry{}} }

// due tells whether key may be recorded again, and how often it was not since
// the last time.
func (l *refusalLog) due(key string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.last[key]
	if e != nil && now.Sub(e.at).Abs() < reasonInterval {
		e.suppressed++
		return 0, false
	}
	if e == nil {
		if len(l.last) >= reasonEntries {
			clear(l.last)
		}
		e = &refusalEntry{}
		l.last[key] = e
	}
	suppressed, e.suppressed, e.at = e.suppressed, 0, now
	return suppressed, true
}
