package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/crypto/ssh"
)

// ClientConfig configures a [Client]. Zero values of optional fields are the
// documented defaults.
type ClientConfig struct {
	// Addresses are the conductor's nodes as host:port, tried in this order.
	// An IPv6 address may have a zone.
	Addresses []string
	// HostKeys are the conductor's keys from onboarding. Exactly these are
	// accepted, at every address.
	HostKeys []ssh.PublicKey
	// Signer is the router's key from onboarding. Required.
	Signer ssh.Signer
	// User is the SSH user name; default "router". The conductor takes the
	// identity from the key.
	User string

	// Local forwards listen on the router; the conductor connects to the
	// target.
	Local []Forward
	// Remote forwards listen on the conductor; the router connects to the
	// target. The conductor can have no other connections opened.
	Remote []Forward

	// Applier applies the configuration that the conductor delivers; nil says
	// that this router can't be initialized.
	Applier Applier
	// Observer is told about connections; nil is nobody.
	Observer Observer

	// KeepAlive is how often the connection is probed, and how long an answer
	// may take; default 15 s.
	KeepAlive time.Duration
	// HandshakeTimeout bounds connecting to one address until authentication;
	// default 30 s.
	HandshakeTimeout time.Duration
	// MinDelay is the first delay after all addresses failed or a session
	// ended; default 1 s. Delays grow by half each time and vary at random by
	// half in both directions.
	MinDelay time.Duration
	// MaxDelay is what the delay grows to before it is varied; default 20 s,
	// so that all routers are back within a minute after a conductor is.
	MaxDelay time.Duration
	// MaxChannels bounds the forwarded connections at one time; default 64.
	MaxChannels int
	// RequirePostQuantum refuses key exchanges other than
	// mlkem768x25519-sha256.
	RequirePostQuantum bool

	// DialContext connects to the conductor and to the targets of Remote; nil
	// is a net.Dialer with 10 s.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger is silent when nil.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client is the router's side. It is safe for concurrent use.
type Client struct {
	cfg ClientConfig
	log *slog.Logger
	ssh ssh.ClientConfig

	running sync.Mutex

	mu      sync.Mutex
	current *link
}

// NewClient checks cfg, naming all that is wrong with it, and does no I/O.
func NewClient(cfg ClientConfig) (*Client, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("tunnel: client: "+format, a...)) }
	if len(cfg.Addresses) == 0 {
		bad("Addresses is empty")
	}
	for _, a := range cfg.Addresses {
		if err := checkAddress(a); err != nil {
			bad("address %s: %w", quote(a), err)
		}
	}
	if len(cfg.HostKeys) == 0 {
		bad("HostKeys is empty")
	}
	for i, k := range cfg.HostKeys {
		if err := checkKey(k); err != nil {
			bad("HostKeys[%d]: %w", i, err)
		}
	}
	signer, err := signerFor(cfg.Signer)
	if err != nil {
		bad("Signer: %w", err)
	}
	for _, list := range [][]Forward{cfg.Local, cfg.Remote} {
		for _, f := range list {
			if err := f.check(); err != nil {
				bad("%w", err)
			}
		}
	}
	checkDurations(bad, []namedDuration{
		{"KeepAlive", &cfg.KeepAlive, defaultKeepAlive},
		{"HandshakeTimeout", &cfg.HandshakeTimeout, defaultHandshakeTimeout},
		{"MinDelay", &cfg.MinDelay, defaultMinDelay},
		{"MaxDelay", &cfg.MaxDelay, defaultMaxDelay},
	})
	if cfg.MinDelay > cfg.MaxDelay {
		bad("MinDelay %s is more than MaxDelay %s", cfg.MinDelay, cfg.MaxDelay)
	}
	if cfg.MaxChannels < 0 || cfg.MaxChannels > 1<<20 {
		bad("MaxChannels is out of range: %d", cfg.MaxChannels)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.MaxChannels == 0 {
		cfg.MaxChannels = defaultMaxChannels
	}
	if cfg.User == "" {
		cfg.User = "router"
	}
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: defaultDialTimeout}).DialContext
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Client{cfg: cfg, log: cfg.Logger}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ssh = ssh.ClientConfig{
		Config:            sshConfig(cfg.RequirePostQuantum),
		User:              cfg.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: hostKeyAlgorithms(cfg.HostKeys),
		ClientVersion:     version,
	}
	return c, nil
}

// Run keeps a session with the conductor until ctx ends, whose error it then
// returns, or until the [Applier] asks for a reboot, when it returns
// [ErrReboot]. Failures of the conductor or of the network never end it; they
// are logged, and tried again. It fails at once when a Local forward can't
// listen, or when Run is already running.
func (c *Client) Run(ctx context.Context) error {
	if !c.running.TryLock() {
		return errors.New("tunnel: client: Run is already running")
	}
	defer c.running.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var locals sync.WaitGroup
	defer locals.Wait()
	defer cancel()
	for _, f := range c.cfg.Local {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", f.Listen)
		if err != nil {
			return fmt.Errorf("tunnel: forwarding %s: %w", quote(f.Listen), err)
		}
		c.log.InfoContext(ctx, "forwarding", "listen", ln.Addr().String(), "target", f.Target)
		locals.Go(func() { c.serveLocal(ctx, ln, f) })
	}

	delay := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(c.cfg.MinDelay), backoff.WithMaxInterval(c.cfg.MaxDelay),
		backoff.WithMultiplier(1.5), backoff.WithRandomizationFactor(0.5), backoff.WithMaxElapsedTime(0))
	for {
		for _, addr := range c.cfg.Addresses {
			began := c.cfg.Now()
			err := c.session(ctx, addr)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, ErrReboot) {
				return ErrReboot
			}
			c.log.WarnContext(ctx, "no session with the conductor", "address", addr, "error", err)
			if c.cfg.Now().Sub(began) >= goodSession {
				delay.Reset()
				break
			}
		}
		d := delay.NextBackOff()
		c.log.DebugContext(ctx, "waiting", "delay", d)
		pause(ctx, d)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// Dial has the conductor connect to address, a host:port that its policy allows.
// Deadlines on the connection are not supported. The error is or wraps
// [ErrNotConnected] or [ErrNotAllowed].
func (c *Client) Dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, fmt.Errorf("tunnel: dialing %s: %w", quote(address), err)
	}
	l := c.link()
	if l == nil {
		return nil, ErrNotConnected
	}
	return l.dial(ctx, "direct-tcpip", encodeOpenTCP(host, port, nil))
}

func (c *Client) link() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

func (c *Client) setLink(l *link) {
	c.mu.Lock()
	c.current = l
	c.mu.Unlock()
}

// serveLocal takes connections for as long as Run runs. While there is no
// session they are closed at once, which tells the caller more than waiting.
func (c *Client) serveLocal(ctx context.Context, ln net.Listener, f Forward) {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	defer ln.Close()
	host, port, err := splitAddress(f.Target)
	if err != nil {
		return
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		tcp, err := ln.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				_ = tcp.Close()
			}
			return
		}
		if err != nil {
			pause(ctx, acceptPause)
			continue
		}
		l := c.link()
		if l == nil {
			_ = tcp.Close()
			continue
		}
		conns.Go(func() {
			open, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
			defer cancel()
			if err := l.forward(open, tcp, "direct-tcpip", encodeOpenTCP(host, port, tcp.RemoteAddr())); err != nil {
				c.log.InfoContext(ctx, "forward failed", "target", f.Target, "error", err)
			}
		})
	}
}

// connect dials one address and authenticates both sides.
func (c *Client) connect(ctx context.Context, addr string) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, ssh.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	nc, err := c.cfg.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	cfg := c.ssh
	var shown ssh.PublicKey
	cfg.HostKeyCallback = func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if !pinned(c.cfg.HostKeys, key) {
			return fmt.Errorf("%w: %s %s", ErrHostKey, key.Type(), ssh.FingerprintSHA256(key))
		}
		shown = key
		return nil
	}
	conn, chans, reqs, err := ssh.NewClientConn(nc, addr, &cfg)
	if err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w before authentication", ctx.Err())
		}
		return nil, nil, nil, nil, err
	}
	return conn, chans, reqs, shown, nil
}
