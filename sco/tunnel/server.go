package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Peer is a router node, as the conductor's records name it.
type Peer struct {
	// AssetID is unique among all nodes; sessions are found by it.
	AssetID string `json:"asset-id"`
	// Router and Node are names for people.
	Router string `json:"router"`
	Node   string `json:"node"`
}

// Authorizer knows which key belongs to which router. Implementations are safe
// for concurrent use and honour ctx.
type Authorizer interface {
	// AuthorizeKey returns the router node to which exactly this key was pinned.
	// user is what the other side calls itself and proves nothing: it may serve
	// as an index, and a node found by it counts only when its key equals key.
	// The error is or wraps [ErrUnauthorized] when there is no such node. It is
	// called before the key's signature has been checked, so it must be cheap
	// and must not change anything; it is called again while a connection
	// lasts, and [ErrUnauthorized] then ends the connection.
	AuthorizeKey(ctx context.Context, user string, key ssh.PublicKey) (Peer, error)
}

// Session describes one connection.
type Session struct {
	// ID tells one connection from all others.
	ID string
	// Peer is the router; it is zero on the router's own side.
	Peer Peer
	// RemoteAddr is the other end of the TCP connection.
	RemoteAddr string
	// Since is when authentication was complete.
	Since time.Time
	// KeyExchange is the SSH key exchange method, such as
	// mlkem768x25519-sha256.
	KeyExchange string
	// Version is the SSH version that the other side announced.
	Version string
	// Fingerprint is the SHA-256 fingerprint of the other side's key.
	Fingerprint string
}

// Observer is told about connections. Implementations are safe for concurrent
// use; a call delays only the connection that it is about.
type Observer interface {
	// Connected is called after authentication. The connection is served
	// meanwhile, but the router is initialized only after it has returned.
	Connected(ctx context.Context, s Session)
	// Disconnected is called once after each Connected has returned. reason is never nil.
	// ctx is not cancelled by the end of Serve or Run, so that the last state
	// can still be written.
	Disconnected(ctx context.Context, s Session, reason error)
}

// ServerConfig configures a [Server]. Zero values of optional fields are the
// documented defaults.
type ServerConfig struct {
	// HostKeys are the conductor's SSH keys, at least one and at most one of a
	// type. Ed25519, ECDSA and RSA (with SHA-2) are possible.
	HostKeys []ssh.Signer
	// Authorizer is required.
	Authorizer Authorizer
	// Policy says what a router may ask for. It is called for each request;
	// nil refuses all forwards.
	Policy func(Peer) Policy
	// Initializer initializes routers; nil does not.
	Initializer Initializer
	// Observer is told about connections; nil is nobody.
	Observer Observer

	// MaxConnections bounds authenticated connections; default 10,000.
	MaxConnections int
	// MaxUnauthenticated bounds connections that have not authenticated yet;
	// default 512.
	MaxUnauthenticated int
	// MaxPerPeer bounds the connections of one router node; default 4. The
	// newest wins: a router that comes back must not wait for its own ghost.
	// As many again may be on their way out; beyond that the newest is refused.
	MaxPerPeer int
	// MaxChannels bounds the forwarded connections at one time within one
	// connection; default 64. Each can make the server hold up to 2 MiB that
	// its target does not take.
	MaxChannels int
	// MaxListeners bounds what one connection makes the server listen on;
	// default 16.
	MaxListeners int
	// HandshakeTimeout bounds the time until authentication; default 30 s.
	HandshakeTimeout time.Duration
	// KeepAlive is how often a connection is probed and its key looked up
	// again, and how long an answer may take; default 30 s.
	KeepAlive time.Duration
	// InitializeTimeout bounds one initialization; default 5 min.
	InitializeTimeout time.Duration
	// RequirePostQuantum refuses key exchanges other than
	// mlkem768x25519-sha256. OpenSSH knows it from version 9.9 on.
	RequirePostQuantum bool

	// DialContext connects for routers; nil is a net.Dialer with 10 s.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger is silent when nil.
	Logger *slog.Logger
	// Now is the clock for Session.Since; nil is time.Now.
	Now func() time.Time
}

// Server is the conductor's side. It is safe for concurrent use.
type Server struct {
	cfg ServerConfig
	log *slog.Logger
	ssh ssh.ServerConfig
	adm admission
	// refusals keeps strangers from filling the log.
	refusals throttle

	mu       sync.Mutex
	sessions map[string][]*serverConn // by asset-id, oldest first
	total    int
}

// NewServer checks cfg, naming all that is wrong with it, and does no I/O.
func NewServer(cfg ServerConfig) (*Server, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("tunnel: server: "+format, a...)) }
	if cfg.Authorizer == nil {
		bad("Authorizer is missing")
	}
	if len(cfg.HostKeys) == 0 {
		bad("HostKeys is empty")
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"MaxConnections", &cfg.MaxConnections, defaultMaxConnections},
		{"MaxUnauthenticated", &cfg.MaxUnauthenticated, defaultMaxUnauthed},
		{"MaxPerPeer", &cfg.MaxPerPeer, defaultMaxPerPeer},
		{"MaxChannels", &cfg.MaxChannels, defaultMaxChannels},
		{"MaxListeners", &cfg.MaxListeners, defaultMaxListeners},
	} {
		if *n.value < 0 || *n.value > 1<<20 {
			bad("%s is out of range: %d", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	checkDurations(bad, []namedDuration{
		{"HandshakeTimeout", &cfg.HandshakeTimeout, defaultHandshakeTimeout},
		{"KeepAlive", &cfg.KeepAlive, defaultServerKeepAlive},
		{"InitializeTimeout", &cfg.InitializeTimeout, defaultInitializeTimeout},
	})
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: defaultDialTimeout}).DialContext
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Policy == nil {
		cfg.Policy = func(Peer) Policy { return Policy{} }
	}
	s := &Server{cfg: cfg, log: cfg.Logger, sessions: make(map[string][]*serverConn)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.adm.max, s.adm.grace = cfg.MaxUnauthenticated, cfg.HandshakeTimeout/6
	s.ssh = ssh.ServerConfig{
		Config:                  sshConfig(cfg.RequirePostQuantum),
		PublicKeyAuthAlgorithms: keyAlgorithms,
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           version,
	}
	types := make(map[string]bool)
	for i, k := range cfg.HostKeys {
		if k == nil {
			bad("HostKeys[%d] is nil", i)
			continue
		}
		k, err := signerFor(k)
		if err != nil {
			bad("HostKeys[%d]: %w", i, err)
			continue
		}
		if t := k.PublicKey().Type(); types[t] {
			bad("HostKeys has two keys of type %s", t)
		} else {
			types[t] = true
		}
		s.ssh.AddHostKey(k)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

type namedDuration struct {
	name  string
	value *time.Duration
	def   time.Duration
}

func checkDurations(bad func(string, ...any), list []namedDuration) {
	for _, d := range list {
		if *d.value < 0 {
			bad("%s is negative: %s", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
}

// Serve accepts connections on ln until ctx ends, and closes ln. It returns
// after all connections are closed and nothing that it started runs any more:
// ctx.Err() when ctx ended it, otherwise why ln failed. It may be called with
// several listeners at the same time.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	for {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("tunnel: accepting: %w", err)
		case err != nil:
			// Out of file descriptors, or a connection that ended before it was
			// accepted: neither must end the service.
			s.log.WarnContext(ctx, "accepting a connection failed", "error", err)
			pause(ctx, acceptPause)
			continue
		}
		conns.Go(func() { s.handle(ctx, c) })
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// peerKey is where Permissions.ExtraData holds the router: x/crypto guarantees
// that the Permissions of a connection are those returned for the key whose
// signature was verified last, and nothing else is.
type peerKey struct{}

type authorized struct {
	peer Peer
	key  ssh.PublicKey
}

// handle serves one TCP connection to its end.
func (s *Server) handle(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	sc, chans, reqs, err := s.handshake(ctx, nc)
	if err != nil {
		if suppressed, ok := s.refusals.due(s.cfg.Now()); ok {
			s.log.InfoContext(ctx, "connection refused", "remote", nc.RemoteAddr().String(), "error", err, "suppressed", suppressed)
		}
		return
	}
	who, _ := sc.Permissions.ExtraData[peerKey{}].(authorized)
	c := &serverConn{server: s, key: who.key, user: sc.User(), session: Session{
		ID: rand.Text(), Peer: who.peer, RemoteAddr: sc.RemoteAddr().String(), Since: s.cfg.Now(),
		KeyExchange: keyExchange(sc.Conn), Version: string(sc.ClientVersion()), Fingerprint: ssh.FingerprintSHA256(who.key),
	}}
	c.link.conn, c.link.max = sc, int32(s.cfg.MaxChannels)
	if err := s.enter(c); err != nil {
		s.log.WarnContext(ctx, "connection refused", "remote", c.session.RemoteAddr, "router", who.peer.Router, "error", err)
		_ = sc.Close()
		return
	}
	defer s.leave(c)
	c.serve(ctx, chans, reqs)
}

// handshake runs until the router is authenticated.
func (s *Server) handshake(ctx context.Context, nc net.Conn) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	leave, ok := s.adm.enter(nc, s.cfg.Now())
	if !ok {
		return nil, nil, nil, errCrowded
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HandshakeTimeout)
	defer cancel()
	// A deadline instead would have to be taken off again, while reads go on.
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	cfg := s.ssh
	cfg.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if err := checkKey(key); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnauthorized, err)
		}
		p, err := s.cfg.Authorizer.AuthorizeKey(ctx, m.User(), key)
		if err != nil {
			if !errors.Is(err, ErrUnauthorized) {
				s.log.ErrorContext(ctx, "looking up a key failed", "error", err)
			}
			return nil, err
		}
		return &ssh.Permissions{ExtraData: map[any]any{peerKey{}: authorized{p, key}}}, nil
	}
	sc, chans, reqs, err := ssh.NewServerConn(nc, &cfg)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w before authentication", ctx.Err())
		}
		return nil, nil, nil, err
	}
	if sc.Permissions == nil || sc.Permissions.ExtraData[peerKey{}] == nil {
		_ = sc.Close()
		return nil, nil, nil, ErrUnauthorized
	}
	return sc, chans, reqs, nil
}

// enter books the session, and closes the oldest ones of the same router when it
// has too many. A connection that was closed is listed until all that it started
// has ended, which an observer can delay, so those count too.
func (s *Server) enter(c *serverConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := c.session.Peer.AssetID
	mine := s.sessions[id]
	if len(mine) >= 2*s.cfg.MaxPerPeer {
		return fmt.Errorf("tunnel: %d connections of this router have not ended yet", len(mine))
	}
	var live []*serverConn
	for _, o := range mine {
		if !o.link.isClosed() {
			live = append(live, o)
		}
	}
	replaced := live[:max(0, len(live)-s.cfg.MaxPerPeer+1)]
	limit := s.cfg.MaxConnections
	if len(replaced) > 0 {
		limit++ // One goes for this one.
	}
	if s.total >= limit {
		return fmt.Errorf("tunnel: the limit of %d connections is reached", s.cfg.MaxConnections)
	}
	for _, o := range replaced {
		o.link.close(errReplaced)
	}
	s.sessions[id] = append(mine, c)
	s.total++
	return nil
}

func (s *Server) leave(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := c.session.Peer.AssetID
	var rest []*serverConn
	for _, o := range s.sessions[id] {
		if o != c {
			rest = append(rest, o)
		}
	}
	s.total--
	if len(rest) == 0 {
		delete(s.sessions, id)
		return
	}
	s.sessions[id] = rest
}

// heldByOther reports whether tcp leads to what the server listens on for another
// router: what a router exposes to the conductor is not for the other routers. It
// is asked of the connection, because names tell too little.
func (s *Server) heldByOther(assetID string, tcp net.Conn) bool {
	to, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	// A connection to this machine has one of its addresses at both ends.
	from, ok := tcp.LocalAddr().(*net.TCPAddr)
	if !to.IP.IsLoopback() && (!ok || !from.IP.Equal(to.IP)) {
		return false
	}
	s.mu.Lock()
	var others []*serverConn
	for id, list := range s.sessions {
		if id != assetID {
			others = append(others, list...)
		}
	}
	s.mu.Unlock()
	for _, o := range others {
		if o.holds(to) {
			return true
		}
	}
	return false
}

// Sessions returns the connections of the moment, in no order.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Session, 0, s.total)
	for _, list := range s.sessions {
		for _, c := range list {
			out = append(out, c.session)
		}
	}
	return out
}

// Disconnect closes the connections of a router node, for example after its
// binding was released, and returns how many there were.
func (s *Server) Disconnect(assetID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.sessions[assetID]
	for _, c := range list {
		c.link.close(errRevoked)
	}
	return len(list)
}

// Dial opens a connection to a router node through a forward that the node has
// asked for: address is the host:port that it asked the conductor to listen on,
// with the port that the conductor chose where it asked for 0. No socket of the
// conductor is involved. Deadlines on the connection are not supported. The
// error is or wraps [ErrNotConnected] or [ErrNotAllowed].
func (s *Server) Dial(ctx context.Context, assetID, address string) (net.Conn, error) {
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, fmt.Errorf("tunnel: dialing %s: %w", quote(address), err)
	}
	s.mu.Lock()
	list := append([]*serverConn(nil), s.sessions[assetID]...)
	s.mu.Unlock()
	if len(list) == 0 {
		return nil, ErrNotConnected
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].listens(host, port) {
			return list[i].link.dial(ctx, "forwarded-tcpip", encodeOpenTCP(host, port, nil))
		}
	}
	return nil, fmt.Errorf("%w: router did not ask for %s", ErrNotAllowed, quote(address))
}
