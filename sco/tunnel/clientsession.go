package tunnel

import (
	"context"
	"crypto/rand"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// clientSession is one authenticated connection on the router.
type clientSession struct {
	client *Client
	link   link

	mu sync.Mutex
	// granted maps what the conductor listens on to its forward.
	granted map[forwardRequest]Forward
	// applying keeps configurations from being applied at the same time.
	applying bool
	reboot   bool
}

// session connects to addr and serves the connection to its end. The error is
// never nil.
func (c *Client) session(ctx context.Context, addr string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, chans, reqs, key, err := c.connect(ctx, addr)
	if err != nil {
		return err
	}
	s := &clientSession{client: c, granted: make(map[forwardRequest]Forward)}
	s.link.conn, s.link.max = conn, int32(c.cfg.MaxChannels)
	stop := context.AfterFunc(ctx, func() { s.link.close(errShutdown) })
	defer stop()
	info := Session{ID: rand.Text(), RemoteAddr: addr, Since: c.cfg.Now(), KeyExchange: keyExchange(conn),
		Version: string(conn.ServerVersion()), Fingerprint: ssh.FingerprintSHA256(key)}
	c.log.InfoContext(ctx, "connected", "address", addr, "version", quote(info.Version), "key-exchange", info.KeyExchange)
	// Dial works from the moment that Connected is called.
	c.setLink(&s.link)
	if c.cfg.Observer != nil {
		c.cfg.Observer.Connected(ctx, info)
	}
	s.link.do(func() { s.keepAlive(ctx) })
	s.link.do(func() { s.askForwards(ctx) })
	for chans != nil || reqs != nil {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			s.channel(ctx, nc)
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			_ = r.Reply(false, nil)
		}
	}
	c.setLink(nil)
	cancel()
	err = s.link.reason(conn.Wait())
	s.link.finish()
	s.mu.Lock()
	if s.reboot {
		err = ErrReboot
	}
	s.mu.Unlock()
	if c.cfg.Observer != nil {
		c.cfg.Observer.Disconnected(context.WithoutCancel(ctx), info, err)
	}
	return err
}

func (s *clientSession) keepAlive(ctx context.Context) {
	t := time.NewTicker(s.client.cfg.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.link.ping(s.client.cfg.KeepAlive); err != nil {
			s.link.close(err)
			return
		}
	}
}

// askForwards asks the conductor to listen. What it refuses is logged and asked
// again with the next session.
func (s *clientSession) askForwards(ctx context.Context) {
	c := s.client
	for _, f := range c.cfg.Remote {
		host, port, err := splitAddress(f.Listen)
		if err != nil {
			continue
		}
		m := forwardRequest{Host: host, Port: uint32(port)}
		// The conductor may open a channel before its reply is read here.
		s.mu.Lock()
		if port != 0 {
			s.granted[m] = f
		}
		s.mu.Unlock()
		ok, payload, err := s.link.conn.SendRequest("tcpip-forward", true, ssh.Marshal(m))
		if err != nil {
			return
		}
		if !ok {
			s.mu.Lock()
			delete(s.granted, m)
			s.mu.Unlock()
			c.log.WarnContext(ctx, "conductor refuses to forward", "listen", f.Listen)
			continue
		}
		if port == 0 {
			var r forwardReply
			if err := ssh.Unmarshal(payload, &r); err != nil || r.Port == 0 || r.Port > 65535 {
				c.log.WarnContext(ctx, "conductor does not say on which port it listens", "listen", f.Listen)
				continue
			}
			m.Port = r.Port
			s.mu.Lock()
			s.granted[m] = f
			s.mu.Unlock()
		}
		c.log.InfoContext(ctx, "conductor forwards", "listen", net.JoinHostPort(host, strconv.Itoa(int(m.Port))), "target", f.Target)
	}
}

func (s *clientSession) channel(ctx context.Context, nc ssh.NewChannel) {
	switch nc.ChannelType() {
	case "forwarded-tcpip":
		s.forwarded(ctx, nc)
	case initializeChannel:
		if s.client.cfg.Applier == nil {
			_ = nc.Reject(ssh.UnknownChannelType, "not here")
			return
		}
		s.initialize(ctx, nc)
	default:
		_ = nc.Reject(ssh.UnknownChannelType, "only TCP forwarding is possible here")
	}
}

func (s *clientSession) forwarded(ctx context.Context, nc ssh.NewChannel) {
	c := s.client
	m, err := decodeOpenTCP(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	s.mu.Lock()
	f, ok := s.granted[forwardRequest{Host: m.Host, Port: m.Port}]
	s.mu.Unlock()
	if !ok {
		c.log.WarnContext(ctx, "conductor opens a connection that was not asked for", "host", quote(m.Host), "port", m.Port)
		_ = nc.Reject(ssh.Prohibited, "not asked for")
		return
	}
	if s.link.take() != nil {
		_ = nc.Reject(ssh.ResourceShortage, "too many channels")
		return
	}
	if !s.link.do(func() {
		defer s.link.release()
		err := s.link.answer(ctx, nc, func(ctx context.Context) (net.Conn, error) { return c.cfg.DialContext(ctx, "tcp", f.Target) })
		if err != nil {
			c.log.InfoContext(ctx, "forward failed", "target", f.Target, "error", err)
		}
	}) {
		s.link.release()
	}
}

func (s *clientSession) initialize(ctx context.Context, nc ssh.NewChannel) {
	s.mu.Lock()
	busy := s.applying
	s.applying = true
	s.mu.Unlock()
	if busy {
		_ = nc.Reject(ssh.ResourceShortage, "a configuration is being applied")
		return
	}
	s.link.do(func() {
		reboot, err := receive(ctx, nc, s.client.cfg.Applier)
		s.mu.Lock()
		s.applying = false
		s.reboot = s.reboot || reboot
		s.mu.Unlock()
		switch {
		case err != nil:
			s.client.log.WarnContext(ctx, "initialization failed", "error", err)
		case reboot:
			s.client.log.InfoContext(ctx, "configuration applied, reboot needed")
			s.link.close(ErrReboot)
		default:
			s.client.log.InfoContext(ctx, "configuration applied")
		}
	})
}
