package tunnel_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

func TestForwardsBothWays(t *testing.T) {
	w := newWorld(t, nil)
	target := echo(t)
	local, remote := freeAddr(t), freeAddr(t)
	c, watch, stop := w.client(func(cfg *tunnel.ClientConfig) {
		cfg.Local = []tunnel.Forward{{Listen: local, Target: target}}
		cfg.Remote = []tunnel.Forward{{Listen: remote, Target: target}}
	})
	s := w.watch.waitUp(t)
	require.Equal(t, w.peer, s.Peer)
	require.Equal(t, "mlkem768x25519-sha256", s.KeyExchange)
	require.Equal(t, ssh.FingerprintSHA256(w.router.PublicKey()), s.Fingerprint)
	mine := watch.waitUp(t)
	require.Equal(t, w.addr, mine.RemoteAddr)
	require.Equal(t, ssh.FingerprintSHA256(w.hostKey.PublicKey()), mine.Fingerprint)

	t.Run("router to conductor through a socket", func(t *testing.T) {
		exchange(t, dialTCP(t, local))
	})
	t.Run("router to conductor by call", func(t *testing.T) {
		conn, err := c.Dial(t.Context(), target)
		require.NoError(t, err)
		exchange(t, conn)
	})
	t.Run("conductor to router by call", func(t *testing.T) {
		var conn net.Conn
		eventually(t, func() (ok bool) {
			var err error
			conn, err = w.server.Dial(t.Context(), w.peer.AssetID, remote)
			return err == nil
		}, "the forward is granted")
		exchange(t, conn)
	})
	t.Run("conductor to router through a socket", func(t *testing.T) {
		exchange(t, dialTCP(t, remote))
	})
	require.Len(t, w.server.Sessions(), 1)
	require.ErrorIs(t, stop(), context.Canceled)
	require.Error(t, w.watch.waitDown(t))
	_, err := c.Dial(t.Context(), target)
	require.ErrorIs(t, err, tunnel.ErrNotConnected)
	_, err = w.server.Dial(t.Context(), w.peer.AssetID, remote)
	require.ErrorIs(t, err, tunnel.ErrNotConnected)
	_, err = net.DialTimeout("tcp", remote, patience)
	require.Error(t, err, "the conductor's listener ends with the connection")
}

func TestRemoteForwardOnPortOfConductorsChoice(t *testing.T) {
	w := newWorld(t, nil)
	target := echo(t)
	cl, err := w.raw(w.router)
	require.NoError(t, err)
	defer cl.Close()
	ln, err := cl.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", target)
		if err == nil {
			go func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(c, up)
		}
		_ = c.Close()
	}()
	addr := ln.Addr().String()
	exchange(t, dialTCP(t, addr))
	require.NoError(t, ln.Close())
	_, err = net.DialTimeout("tcp", addr, patience)
	require.Error(t, err, "a cancelled forward no longer listens")
}

func TestServerRefuses(t *testing.T) {
	target := echo(t)
	_, port, err := net.SplitHostPort(target)
	require.NoError(t, err)
	w := newWorld(t, func(cfg *tunnel.ServerConfig) {
		p := tunnel.Policy{Dial: mustRules(t, target), Listen: mustRules(t, "127.0.0.1:0")}
		cfg.Policy = func(tunnel.Peer) tunnel.Policy { return p }
		cfg.MaxChannels, cfg.MaxListeners = 2, 2
	})
	cl, err := w.raw(w.router)
	require.NoError(t, err)
	defer cl.Close()

	for _, kind := range []string{"session", "x11", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "tun@openssh.com", "forwarded-tcpip", "initialize@mooringlib", ""} {
		t.Run("channel "+kind, func(t *testing.T) {
			_, _, err := cl.OpenChannel(kind, nil)
			var open *ssh.OpenChannelError
			require.ErrorAs(t, err, &open)
		})
	}
	t.Run("shell", func(t *testing.T) {
		_, err := cl.NewSession()
		require.ErrorContains(t, err, "prohibited")
	})
	for _, addr := range []string{"localhost:" + port, "127.0.0.2:" + port, "127.0.0.1:1", "[::1]:" + port, "127.1:" + port} {
		t.Run("connect to "+addr, func(t *testing.T) {
			_, err := cl.Dial("tcp", addr)
			var open *ssh.OpenChannelError
			require.ErrorAs(t, err, &open)
			require.Equal(t, ssh.Prohibited, open.Reason)
		})
	}
	t.Run("malformed connect", func(t *testing.T) {
		good := ssh.Marshal(struct {
			H string
			P uint32
			O string
			Q uint32
		}{"127.0.0.1", 80, "x", 1})
		for i := range good {
			_, _, err := cl.OpenChannel("direct-tcpip", good[:i])
			require.Error(t, err)
		}
	})
	for _, addr := range []string{"0.0.0.0:0", freeAddr(t), "localhost:0"} {
		t.Run("listen on "+addr, func(t *testing.T) {
			_, err := cl.Listen("tcp", addr)
			require.Error(t, err)
		})
	}
	t.Run("global requests", func(t *testing.T) {
		for _, kind := range []string{"streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com", "nonsense", "tcpip-forward", "cancel-tcpip-forward"} {
			ok, _, err := cl.SendRequest(kind, true, []byte{0, 0})
			require.NoError(t, err)
			require.False(t, ok, kind)
		}
	})
	t.Run("too many listeners", func(t *testing.T) {
		for range 2 {
			_, err := cl.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
		}
		_, err := cl.Listen("tcp", "127.0.0.1:0")
		require.Error(t, err)
	})
	t.Run("too many channels", func(t *testing.T) {
		var open []net.Conn
		for range 2 {
			c, err := cl.Dial("tcp", target)
			require.NoError(t, err)
			open = append(open, c)
		}
		_, err := cl.Dial("tcp", target)
		require.ErrorContains(t, err, "resource shortage")
		for _, c := range open {
			exchange(t, c)
		}
		eventually(t, func() bool {
			c, err := cl.Dial("tcp", target)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		}, "channels that ended no longer count")
	})
	require.Len(t, w.server.Sessions(), 1, "nothing of this ends the connection")
}

// TestRouterCanNotDialWhatAnotherExposes to the conductor.
func TestRouterCanNotDialWhatAnotherExposes(t *testing.T) {
	p := tunnel.Policy{Dial: mustRules(t, "*:*"), Listen: mustRules(t, "*:*")}
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Policy = func(tunnel.Peer) tunnel.Policy { return p } })
	other := newKey(t)
	w.ring.add(other.PublicKey(), tunnel.Peer{AssetID: "asset-2", Router: "other", Node: "node0"})
	mine, err := w.raw(w.router)
	require.NoError(t, err)
	defer mine.Close()
	theirs, err := w.raw(other)
	require.NoError(t, err)
	defer theirs.Close()
	for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
		ln, err := mine.Listen("tcp", host+":0")
		require.NoError(t, err)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}
		}()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		for _, name := range []string{"127.0.0.1", "localhost"} {
			_, err = theirs.Dial("tcp", name+":"+port)
			require.ErrorContains(t, err, "connection failed", "%s for %s", name, host)
			c, err := mine.Dial("tcp", name+":"+port)
			require.NoError(t, err, "its own")
			exchange(t, c)
		}
		exchange(t, dialTCP(t, "127.0.0.1:"+port))
	}
	c, err := theirs.Dial("tcp", echo(t))
	require.NoError(t, err, "what no router listens on")
	exchange(t, c)
}

func TestServerAuthenticatesByKeyOnly(t *testing.T) {
	w := newWorld(t, nil)
	other := newKey(t)
	w.ring.add(other.PublicKey(), tunnel.Peer{AssetID: "asset-2", Router: "other", Node: "node0"})

	t.Run("unknown key", func(t *testing.T) {
		_, err := w.raw(newKey(t))
		require.ErrorContains(t, err, "unable to authenticate")
	})
	t.Run("password and none", func(t *testing.T) {
		_, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{User: "asset-1",
			Auth:            []ssh.AuthMethod{ssh.Password("x"), ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
			HostKeyCallback: ssh.FixedHostKey(w.hostKey.PublicKey())})
		require.ErrorContains(t, err, "attempted methods [none]")
	})
	t.Run("lookup fails", func(t *testing.T) {
		w.ring.setFail(errors.New("store is away"))
		_, err := w.raw(w.router)
		require.ErrorContains(t, err, "unable to authenticate")
		w.ring.setFail(nil)
	})
	t.Run("public key without the private one", func(t *testing.T) {
		_, err := w.raw(forger{public: w.router.PublicKey(), Signer: other}, other)
		require.Error(t, err)
		require.Empty(t, w.server.Sessions())
	})
	t.Run("certificate by the router's key", func(t *testing.T) {
		cert := &ssh.Certificate{Key: w.router.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
		require.NoError(t, cert.SignCert(rand.Reader, w.router))
		s, err := ssh.NewCertSigner(cert, w.router)
		require.NoError(t, err)
		_, err = w.raw(s)
		require.ErrorContains(t, err, "unable to authenticate")
	})
}

// forger shows a public key that it does not have.
type forger struct {
	ssh.Signer
	public ssh.PublicKey
}

func (f forger) PublicKey() ssh.PublicKey { return f.public }

func TestClientPinsHostKeys(t *testing.T) {
	w := newWorld(t, nil)
	log := newCapture()
	_, _, _ = w.client(func(cfg *tunnel.ClientConfig) {
		cfg.HostKeys = []ssh.PublicKey{newKey(t).PublicKey()}
		cfg.Logger = log.logger()
	})
	eventually(t, func() bool { return log.contains("host key that is not pinned") }, "the refusal is logged")
	require.Empty(t, w.server.Sessions())
}

func TestRevokedKeyLosesItsConnection(t *testing.T) {
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.KeepAlive = 20 * time.Millisecond })
	_, _, _ = w.client(nil)
	w.watch.waitUp(t)
	w.ring.setFail(errors.New("store is away"))
	before := func() int { w.ring.mu.Lock(); defer w.ring.mu.Unlock(); return w.ring.calls }()
	eventually(t, func() bool { w.ring.mu.Lock(); defer w.ring.mu.Unlock(); return w.ring.calls > before+2 }, "the key is looked up again")
	require.Len(t, w.server.Sessions(), 1, "a store that is away ends nothing")
	w.ring.remove(w.router.PublicKey())
	w.ring.setFail(nil)
	require.ErrorContains(t, w.watch.waitDown(t), "no longer authorized")
	eventually(t, func() bool { return len(w.server.Sessions()) == 0 }, "gone")
	w.ring.add(w.router.PublicKey(), w.peer)
	w.watch.waitUp(t)
	require.Equal(t, 1, w.server.Disconnect(w.peer.AssetID))
	w.watch.waitDown(t)
	w.watch.waitUp(t)
}

func TestNewestConnectionOfRouterWins(t *testing.T) {
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.MaxPerPeer, cfg.MaxConnections = 1, 1 })
	first, err := w.raw(w.router)
	require.NoError(t, err)
	w.watch.waitUp(t)
	second, err := w.raw(w.router)
	require.NoError(t, err)
	defer second.Close()
	require.ErrorContains(t, w.watch.waitDown(t), "replaced")
	require.Error(t, first.Wait())
	other := newKey(t)
	w.ring.add(other.PublicKey(), tunnel.Peer{AssetID: "asset-2"})
	cl, err := w.raw(other)
	if err == nil {
		require.Error(t, cl.Wait(), "over the limit of connections")
	}
	require.Equal(t, "asset-1", w.server.Sessions()[0].Peer.AssetID)
}

// slowObserver does not get around to recording connections.
type slowObserver struct {
	*watcher
	release <-chan struct{}
}

func (o slowObserver) Connected(_ context.Context, s tunnel.Session) {
	o.up <- s
	<-o.release
}

// TestGhostsOfOneRouterAreBounded has connections end slowly: those that were
// replaced count until they are gone.
func TestGhostsOfOneRouterAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name       string
		perPeer    int
		total      int
		most, live int
	}{
		{"per router", 2, 100, 4, 2},
		{"in total", 2, 2, 3, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			release := make(chan struct{})
			watch := newWatcher()
			w := newWorld(t, func(cfg *tunnel.ServerConfig) {
				cfg.MaxPerPeer, cfg.MaxConnections = tc.perPeer, tc.total
				cfg.Observer = slowObserver{watch, release}
			})
			// Runs before the server is stopped, which waits for the observer.
			once := sync.OnceFunc(func() { close(release) })
			t.Cleanup(once)
			ended := make([]chan error, tc.most)
			for i := range tc.most {
				cl, err := w.raw(w.router)
				require.NoError(t, err)
				defer cl.Close()
				ended[i] = make(chan error, 1)
				go func() { ended[i] <- cl.Wait() }()
				watch.waitUp(t)
			}
			for i := range tc.most - tc.live {
				select {
				case <-ended[i]:
				case <-time.After(patience):
					require.FailNow(t, "replaced connection lasts", "connection %d of %d", i, tc.most)
				}
			}
			require.Len(t, w.server.Sessions(), tc.most)
			for range 5 {
				if cl, err := w.raw(w.router); err == nil {
					require.Error(t, cl.Wait(), "one more is refused")
				}
				require.Len(t, w.server.Sessions(), tc.most)
			}
			once()
			for range tc.most - tc.live {
				require.ErrorContains(t, watch.waitDown(t), "replaced")
			}
			eventually(t, func() bool { return len(w.server.Sessions()) == tc.live }, "the ghosts are gone")
			for i := tc.most - tc.live; i < tc.most; i++ {
				require.Empty(t, ended[i], "the newest stay")
			}
		})
	}
}

// TestAddressesOfConductor are the router's own configuration.
func TestAddressesOfConductor(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.clientConfig()
	for _, a := range []string{"3f2a9c1b7d12:930", "123456789012:930", "[fe80::1%eth0]:930", "[::1]:1", "192.0.2.1:65535", "a_b.example:0930", "127.1:1"} {
		cfg.Addresses = []string{a}
		_, err := tunnel.NewClient(cfg)
		require.NoError(t, err, a)
	}
	for _, a := range []string{"", "x", ":1", "x:", "x:0", "x:65536", "x:-1", "a b:1", "[::1:1", "::1:1", "192.0.2.1:0", strings.Repeat("a", 300) + ":1"} {
		cfg.Addresses = []string{a}
		_, err := tunnel.NewClient(cfg)
		require.ErrorContains(t, err, "address", a)
	}
}

func TestUnauthenticatedConnectionsMakePlace(t *testing.T) {
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.MaxUnauthenticated, cfg.HandshakeTimeout = 4, 6*time.Second })
	for range 4 {
		c := dialTCP(t, w.addr)
		defer c.Close()
		// The banner says that the server has taken the connection in.
		_, err := io.ReadFull(c, make([]byte, 4))
		require.NoError(t, err)
	}
	_, _, _ = w.client(nil)
	w.watch.waitUp(t)
}

// stranger is a connection from an address.
type stranger struct {
	net.Conn
	addr   string
	closed bool
}

func (s *stranger) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(s.addr), Port: 1} }
func (s *stranger) Close() error         { s.closed = true; return nil }

func TestAdmission(t *testing.T) {
	enter := tunnel.NewAdmission(4, 5*time.Second)
	now := time.Unix(0, 0)
	var crowd []*stranger
	for range 4 {
		s := &stranger{addr: "192.0.2.1"}
		_, ok := enter(s, now)
		require.True(t, ok)
		crowd = append(crowd, s)
	}
	_, ok := enter(&stranger{addr: "192.0.2.1"}, now.Add(time.Second))
	require.False(t, ok, "the same address has to wait")
	other := &stranger{addr: "2001:db8::1"}
	leave, ok := enter(other, now.Add(time.Second))
	require.True(t, ok, "another address does not")
	require.True(t, crowd[0].closed)
	second := &stranger{addr: "2001:db8::2"}
	_, ok = enter(second, now.Add(time.Second))
	require.True(t, ok, "a lighter prefix takes from the heavier one")
	require.True(t, crowd[1].closed)
	_, ok = enter(&stranger{addr: "2001:db8::3"}, now.Add(time.Second))
	require.False(t, ok, "a /64 counts as one")
	leave()
	_, ok = enter(&stranger{addr: "2001:db8::3"}, now.Add(time.Second))
	require.True(t, ok, "whoever leaves makes place")
	_, ok = enter(&stranger{addr: "192.0.2.1"}, now.Add(6*time.Second))
	require.True(t, ok, "after its grace the oldest makes place also for its like")
	require.False(t, other.closed)
}

func TestHandshakeTimeout(t *testing.T) {
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.HandshakeTimeout = 100 * time.Millisecond })
	c := dialTCP(t, w.addr)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	require.False(t, errors.As(err, &ne) && ne.Timeout(), "the server closes the connection")
	cl, err := w.raw(w.router)
	if err == nil {
		defer cl.Close()
	}
}

func TestClientTriesAddressesInOrderAndComesBack(t *testing.T) {
	w := newWorld(t, nil)
	second := newWorld(t, func(cfg *tunnel.ServerConfig) {
		cfg.HostKeys, cfg.Authorizer = []ssh.Signer{w.hostKey}, w.ring
	})
	_, watch, _ := w.client(func(cfg *tunnel.ClientConfig) { cfg.Addresses = []string{w.addr, second.addr} })
	require.Equal(t, w.addr, watch.waitUp(t).RemoteAddr)
	require.ErrorIs(t, w.stop(), context.Canceled)
	watch.waitDown(t)
	require.Equal(t, second.addr, watch.waitUp(t).RemoteAddr)
}

// TestClientRefusesWhatItDidNotAskFor is a conductor that has gone bad.
func TestClientRefusesWhatItDidNotAskFor(t *testing.T) {
	hostKey, router, target := newKey(t), newKey(t), echo(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{ln.Addr().String()}, HostKeys: []ssh.PublicKey{hostKey.PublicKey()},
		Signer: router, Remote: []tunnel.Forward{{Listen: "127.0.0.1:7", Target: target}}, Logger: testLogger(t)})
	require.NoError(t, err)
	background(t, c.Run)
	nc, err := ln.Accept()
	require.NoError(t, err)
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(hostKey)
	sc, chans, reqs, err := ssh.NewServerConn(nc, cfg)
	require.NoError(t, err)
	defer sc.Close()
	go func() {
		for nc := range chans {
			_ = nc.Reject(ssh.Prohibited, "")
		}
	}()
	asked := make(chan struct{})
	go func() {
		for r := range reqs {
			_ = r.Reply(r.Type == "tcpip-forward", nil)
			if r.Type == "tcpip-forward" {
				close(asked)
			}
		}
	}()
	<-asked
	open := func(kind, host string, port uint32) error {
		ch, reqs, err := sc.OpenChannel(kind, ssh.Marshal(struct {
			H string
			P uint32
			O string
			Q uint32
		}{host, port, "127.0.0.1", 1}))
		if err == nil {
			go ssh.DiscardRequests(reqs)
			_ = ch.Close()
		}
		return err
	}
	require.NoError(t, open("forwarded-tcpip", "127.0.0.1", 7))
	require.Error(t, open("forwarded-tcpip", "127.0.0.1", 8))
	require.Error(t, open("forwarded-tcpip", "localhost", 7))
	require.Error(t, open("direct-tcpip", "127.0.0.1", 7))
	require.Error(t, open("session", "", 0))
	require.Error(t, open("auth-agent@openssh.com", "", 0))
	require.Error(t, open("initialize@mooringlib", "", 0))
}

func TestConfigErrorsNameEveryField(t *testing.T) {
	_, err := tunnel.NewServer(tunnel.ServerConfig{MaxChannels: -1, KeepAlive: -time.Second})
	for _, want := range []string{"HostKeys", "Authorizer", "MaxChannels", "KeepAlive"} {
		require.ErrorContains(t, err, want)
	}
	_, err = tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{"x"}, Local: []tunnel.Forward{{Listen: "a:1", Target: "b:0"}}, MinDelay: time.Hour})
	for _, want := range []string{"HostKeys", "Signer", `"x"`, "port 0", "MinDelay"} {
		require.ErrorContains(t, err, want)
	}
}
