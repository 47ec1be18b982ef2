package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// serverConn is one authenticated connection on the conductor. One goroutine
// serves its channels and requests alike; keepalives run from a timer, so that a
// quiet connection costs no goroutine more.
type serverConn struct {
	server  *Server
	key     ssh.PublicKey
	user    string
	session Session
	link    link
	timer   *time.Timer

	mu        sync.Mutex
	listeners map[forwardRequest]net.Listener
	// recorded is set when the observer knows of the connection.
	recorded bool
	// initialized is set when there is nothing left to deliver within this
	// connection; lastTry is when it was tried.
	initialized bool
	busy        bool
	lastTry     time.Time
}

// serve runs until the connection ends.
func (c *serverConn) serve(ctx context.Context, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	s := c.server
	log := s.log.With("router", c.session.Peer.Router, "node", c.session.Peer.Node, "asset-id", c.session.Peer.AssetID)
	log.InfoContext(ctx, "router connected", "remote", c.session.RemoteAddr, "version", quote(c.session.Version), "key-exchange", c.session.KeyExchange)
	// Recording a connection may take long when all routers come at once. The
	// router's keepalive is answered meanwhile: otherwise it would give up and
	// come back, and make it worse.
	c.link.do(func() {
		if s.cfg.Observer != nil {
			s.cfg.Observer.Connected(ctx, c.session)
		}
		c.mu.Lock()
		c.recorded = true
		c.mu.Unlock()
		c.startInitialize(ctx)
	})
	c.mu.Lock()
	c.timer = time.AfterFunc(s.cfg.KeepAlive, func() { c.link.do(func() { c.tick(ctx) }) })
	c.mu.Unlock()
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			c.channel(ctx, nc)
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			c.request(ctx, r)
		}
	}
	err := c.link.reason(c.link.conn.Wait())
	if ctx.Err() != nil {
		err = errShutdown
	}
	c.rearm(0)
	c.link.finish()
	log.InfoContext(ctx, "router disconnected", "reason", err)
	c.mu.Lock()
	recorded := c.recorded
	c.mu.Unlock()
	if s.cfg.Observer != nil && recorded {
		s.cfg.Observer.Disconnected(context.WithoutCancel(ctx), c.session, err)
	}
}

// tick probes the connection and asks whether the key may still be here.
func (c *serverConn) tick(ctx context.Context) {
	s := c.server
	if err := c.link.ping(s.cfg.KeepAlive); err != nil {
		c.link.close(err)
		return
	}
	lookup, cancel := context.WithTimeout(ctx, s.cfg.KeepAlive)
	p, err := s.cfg.Authorizer.AuthorizeKey(lookup, c.user, c.key)
	cancel()
	switch {
	case errors.Is(err, ErrUnauthorized) || err == nil && p.AssetID != c.session.Peer.AssetID:
		c.link.close(errRevoked)
		return
	case err != nil && ctx.Err() == nil:
		s.log.ErrorContext(ctx, "looking up a key failed", "error", err)
	}
	c.startInitialize(ctx)
	c.rearm(s.cfg.KeepAlive)
}

// rearm sets the timer for the next tick, or stops it for good when d is 0. A
// tick that is on its way then finds the link closed.
func (c *serverConn) rearm(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d == 0 {
		c.timer.Stop()
		return
	}
	c.timer.Reset(d)
}

func (c *serverConn) channel(ctx context.Context, nc ssh.NewChannel) {
	s := c.server
	if nc.ChannelType() != "direct-tcpip" {
		reason := ssh.UnknownChannelType
		if nc.ChannelType() == "session" {
			reason = ssh.Prohibited
		}
		_ = nc.Reject(reason, "only TCP forwarding is possible here")
		return
	}
	m, err := decodeOpenTCP(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	if m.Port == 0 || !s.cfg.Policy(c.session.Peer).Dial.Allows(m.Host, uint16(m.Port)) {
		s.log.WarnContext(ctx, "forward refused", "router", c.session.Peer.Router, "host", quote(m.Host), "port", m.Port)
		_ = nc.Reject(ssh.Prohibited, "not allowed")
		return
	}
	if c.link.take() != nil {
		_ = nc.Reject(ssh.ResourceShortage, "too many channels")
		return
	}
	if !c.link.do(func() {
		defer c.link.release()
		addr := net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))
		err := c.link.answer(ctx, nc, func(ctx context.Context) (net.Conn, error) {
			tcp, err := s.cfg.DialContext(ctx, "tcp", addr)
			if err == nil && s.heldByOther(c.session.Peer.AssetID, tcp) {
				_ = tcp.Close()
				return nil, fmt.Errorf("%w: another router's forward listens there", ErrNotAllowed)
			}
			return tcp, err
		})
		if err != nil {
			s.log.InfoContext(ctx, "forward failed", "router", c.session.Peer.Router, "address", addr, "error", err)
		}
	}) {
		c.link.release()
	}
}

func (c *serverConn) request(ctx context.Context, r *ssh.Request) {
	switch r.Type {
	case "tcpip-forward":
		port, err := c.listen(ctx, r.Payload)
		if err != nil {
			c.server.log.WarnContext(ctx, "forward refused", "router", c.session.Peer.Router, "error", err)
			_ = r.Reply(false, nil)
			return
		}
		if port == 0 {
			_ = r.Reply(true, nil)
			return
		}
		_ = r.Reply(true, ssh.Marshal(forwardReply{Port: uint32(port)}))
	case "cancel-tcpip-forward":
		m, err := decodeForwardRequest(r.Payload)
		_ = r.Reply(err == nil && c.cancel(m), nil)
	default:
		_ = r.Reply(false, nil)
	}
}

// listen opens a listener for the router. port is not 0 when the router has to
// be told which one it got.
func (c *serverConn) listen(ctx context.Context, payload []byte) (port uint16, err error) {
	m, err := decodeForwardRequest(payload)
	if err != nil {
		return 0, err
	}
	if !c.server.cfg.Policy(c.session.Peer).Listen.Allows(m.Host, uint16(m.Port)) {
		return 0, fmt.Errorf("%w: listening on %s port %d", ErrNotAllowed, quote(m.Host), m.Port)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.listeners) >= c.server.cfg.MaxListeners {
		return 0, fmt.Errorf("tunnel: the limit of %d listeners is reached", c.server.cfg.MaxListeners)
	}
	if _, dup := c.listeners[m]; dup {
		return 0, fmt.Errorf("tunnel: listening on %s port %d already", quote(m.Host), m.Port)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))))
	if err != nil {
		return 0, err
	}
	if m.Port == 0 {
		if a, ok := ln.Addr().(*net.TCPAddr); ok {
			port, m.Port = uint16(a.Port), uint32(a.Port)
		}
	}
	if !c.link.track(ln) {
		return 0, ErrNotConnected
	}
	if c.listeners == nil {
		c.listeners = make(map[forwardRequest]net.Listener)
	}
	c.listeners[m] = ln
	c.link.do(func() { c.acceptFor(ctx, ln, m) })
	return port, nil
}

// acceptFor passes the connections of one listener to the router. The address in
// forwarded-tcpip is the one the router asked for, by which it finds its forward
// again.
func (c *serverConn) acceptFor(ctx context.Context, ln net.Listener, m forwardRequest) {
	for {
		tcp, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			if err == nil {
				_ = tcp.Close()
			}
			return
		}
		if err != nil {
			pause(ctx, acceptPause)
			continue
		}
		if !c.link.do(func() {
			open, cancel := context.WithTimeout(ctx, c.server.cfg.HandshakeTimeout)
			defer cancel()
			if err := c.link.forward(open, tcp, "forwarded-tcpip", encodeOpenTCP(m.Host, uint16(m.Port), tcp.RemoteAddr())); err != nil {
				c.server.log.InfoContext(ctx, "forward failed", "router", c.session.Peer.Router, "error", err)
			}
		}) {
			_ = tcp.Close()
			return
		}
	}
}

func (c *serverConn) cancel(m forwardRequest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ln, ok := c.listeners[m]
	if ok {
		delete(c.listeners, m)
		c.link.untrack(ln)
	}
	return ok
}

// holds reports whether it listens for this router on an address of this machine.
func (c *serverConn) holds(to *net.TCPAddr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ln := range c.listeners {
		a, ok := ln.Addr().(*net.TCPAddr)
		if ok && a.Port == to.Port && (a.IP.Equal(to.IP) || a.IP.IsUnspecified()) {
			return true
		}
	}
	return false
}

func (c *serverConn) listens(host string, port uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.listeners[forwardRequest{Host: host, Port: uint32(port)}]
	return ok
}

// startInitialize delivers the configuration in the background, unless that was
// done, is going on, or was tried a moment ago.
func (c *serverConn) startInitialize(ctx context.Context) {
	s := c.server
	if s.cfg.Initializer == nil {
		return
	}
	c.mu.Lock()
	skip := !c.recorded || c.initialized || c.busy || !c.lastTry.IsZero() && s.cfg.Now().Sub(c.lastTry) < initializeRetry
	if !skip {
		c.busy, c.lastTry = true, s.cfg.Now()
	}
	c.mu.Unlock()
	if skip {
		return
	}
	c.link.do(func() {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.InitializeTimeout)
		defer cancel()
		err := c.initialize(ctx)
		c.mu.Lock()
		c.busy, c.initialized = false, err == nil || errors.Is(err, errNotRouter)
		c.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "router was not initialized", "router", c.session.Peer.Router, "node", c.session.Peer.Node, "error", err)
		}
	})
}

func (c *serverConn) initialize(ctx context.Context) error {
	in, p := c.server.cfg.Initializer, c.session.Peer
	config, err := in.Configuration(ctx, p)
	if err != nil {
		return fmt.Errorf("tunnel: getting the configuration: %w", err)
	}
	if len(config) == 0 {
		return nil
	}
	a, err := c.link.deliver(ctx, config)
	if err != nil {
		return err
	}
	r := Result(a.Result)
	if err := in.Initialized(ctx, p, r, oneLine(a.Text)); err != nil {
		return fmt.Errorf("tunnel: recording the initialization: %w", err)
	}
	if r == Failed {
		return fmt.Errorf("tunnel: router says %s", quote(a.Text))
	}
	return nil
}
