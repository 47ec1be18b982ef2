package sco_test

import (
	"context"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// pipeListener hands out in-memory connections with made-up addresses.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

type pipeConn struct {
	net.Conn
	remote net.Addr
}

func (c pipeConn) RemoteAddr() net.Addr { return c.remote }

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(from string) net.Conn {
	client, server := net.Pipe()
	l.conns <- pipeConn{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	return client
}

// bubble runs f with a conductor on a pipe listener, inside a synctest bubble.
func bubble(t *testing.T, limits sco.Limits, f func(w *world, l *pipeListener)) {
	key := ecKey(t, elliptic.P256())
	ca := newAuthority(t, "conductor CA")
	w := &world{tb: t, ca: ca, store: &sco.MemoryStore{}, events: &events{}}
	w.useKey(key)
	synctest.Test(t, func(t *testing.T) {
		w.tb, w.addr = t, "192.0.2.99:933"
		// The bubble's clock begins in the year 2000; the conductor's is the
		// real one.
		w.offset.Store(int64(time.Until(ca.cert.NotBefore.Add(72 * time.Hour))))
		var err error
		w.reg, err = sco.NewRegistry(sco.RegistryConfig{Store: w.store, Events: w.events, Now: w.now})
		require.NoError(t, err)
		w.cond, err = sco.NewConductor(sco.ConductorConfig{Registry: w.reg, Settings: w.getSettings, Limits: limits})
		require.NoError(t, err)
		l := newPipeListener()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.cond.Serve(ctx, l) }()
		f(w, l)
		cancel()
		require.NoError(t, <-done)
	})
}

func closedAfter(t *testing.T, c io.Reader) time.Duration {
	t.Helper()
	start := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(start)
}

// Pre-authentication exhaustion: nobody holds a connection for long.
func TestSlowStrangersAreCutOff(t *testing.T) {
	bubble(t, sco.Limits{}, func(w *world, l *pipeListener) {
		require.Equal(t, 10*time.Second, closedAfter(t, l.dial("192.0.2.1:1")), "no TLS at all")

		conn := tls.Client(l.dial("192.0.2.1:1"), clientConfig())
		require.NoError(t, conn.Handshake())
		require.LessOrEqual(t, closedAfter(t, conn), 12*time.Second, "TLS and no message")

		conn = tls.Client(l.dial("192.0.2.1:1"), clientConfig())
		require.NoError(t, conn.Handshake())
		done := make(chan struct{})
		go func() {
			defer close(done)
			// One byte a second, of a message that is announced as 64 KiB.
			b := []byte{wire.TypeHello, 1, 0, 0}
			for {
				if _, err := conn.Write(b); err != nil {
					return
				}
				b = []byte{0}
				time.Sleep(time.Second)
			}
		}()
		require.LessOrEqual(t, closedAfter(t, conn), 12*time.Second, "a trickle")
		<-done
	})
}

// Pre-authentication exhaustion: one prefix, or a whole crowd of them, does not
// lock out a router from elsewhere.
func TestStrangersDoNotLockOutOthers(t *testing.T) {
	bubble(t, sco.Limits{Connections: 16, PerPrefix: 8, Rate: 0.001, Burst: 8}, func(w *world, l *pipeListener) {
		w.router("r", sco.ModePSKOnly)
		token := w.token("r")
		for range 20 {
			defer l.dial("198.51.100.1:1").Close()
		}
		for _, p := range []string{"203.0.113.1:1", "192.0.2.1:1", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1"} {
			for range 5 {
				defer l.dial(p).Close()
			}
		}
		_, err := w.onboard(t.TempDir(), token, nil, func(c *sco.OnboardConfig) {
			c.Now = w.now
			c.Dial = func(context.Context, string, string) (net.Conn, error) { return l.dial("100.64.0.1:1"), nil }
		})
		require.NoError(t, err)
		// The prefix of the first crowd is held back.
		require.Less(t, closedAfter(t, l.dial("198.51.100.7:1")), time.Second)
	})
}

// Pre-authentication exhaustion: sizes are checked before anything is read, and
// dear keys before they are used.
func TestOversizedMessages(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	token := w.token("r").Reveal()
	conn := w.dial()
	head := make([]byte, 4)
	binary.BigEndian.PutUint32(head, wire.MaxHello+1)
	head[0] = wire.TypeHello
	_, err := conn.Write(head)
	require.NoError(t, err)
	m := newMallory(t, conn, token, sco.NoDeviceKey())
	m.refused()
	require.Contains(t, w.events.reason(t), "the most is")

	for _, typ := range []uint8{0, wire.TypeProof, wire.TypeRefuse, 200} {
		conn = w.dial()
		require.NoError(t, wire.WriteMessage(conn, typ, nil))
		newMallory(t, conn, token, sco.NoDeviceKey()).refused()
	}

	huge := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16383), E: 65537}
	huge.N.Or(huge.N, big.NewInt(1))
	cert := newAuthority(t, "x").issue(t, huge, nil)
	m = w.mallory(token, sco.SelfSigned())
	m.sendHello(func(h *wire.Hello) { h.Certificates = [][]byte{cert.Raw} })
	m.refused()
	require.Contains(t, w.events.reason(t), "RSA key of 16384 bits")

	m = w.mallory(token, sco.SelfSigned())
	m.sendHello(func(h *wire.Hello) {
		for len(h.Certificates) < 6 {
			h.Certificates = append(h.Certificates, h.Certificates[0])
		}
	})
	m.refused()
	require.Contains(t, w.events.reason(t), "certificates: too many")
}

// What strangers cause to be written is bounded.
func TestStrangersCauseFewRecords(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r").Reveal()
	attempt := func() {
		m := w.mallory(token, sco.NoDeviceKey())
		m.keys = wire.NewKeys("wrong", m.tr.TokenHash)
		m.sendHello(nil)
		m.refused()
	}
	for range 5 {
		attempt()
	}
	require.Len(t, w.events.of("sco.attempt_refused"), 1)
	w.offset.Store(int64(time.Minute))
	attempt()
	all := w.events.of("sco.attempt_refused")
	require.Len(t, all, 2)
	require.Contains(t, string(all[1].Detail), `"suppressed":4`)
}

// Somebody with a stolen token does not fill the conductor either.
func TestOneAssetIDHasFewAttemptsAtATime(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r").Reveal()
	var held []*mallory
	for range 8 {
		m := w.mallory(token, sco.NoDeviceKey())
		m.sendHello(nil)
		m.readChallenge()
		held = append(held, m)
	}
	m := w.mallory(token, sco.NoDeviceKey())
	m.sendHello(nil)
	m.refused()
	require.Contains(t, w.events.reason(t), "too many attempts of this asset-id")
	held[0].sendProof(held[0].honestProof())
	held[0].accepted()
	_ = held[0].conn.Close()
	require.Eventually(t, func() bool {
		m := w.mallory(token, sco.NoDeviceKey())
		m.key = held[0].key
		m.sendHello(nil)
		typ, _ := m.read()
		return typ == wire.TypeChallenge
	}, 10*time.Second, time.Millisecond)
}

func TestConductorWithoutUsableSettings(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	good := w.settings.Load()
	p521, err := ssh.NewPublicKey(ecKey(t, elliptic.P521()).Public())
	require.NoError(t, err)
	for _, bad := range []func(*sco.Settings){
		func(s *sco.Settings) { s.SSHHostKeys = nil },
		func(s *sco.Settings) { s.SSHHostKeys = []ssh.PublicKey{p521} },
		func(s *sco.Settings) { s.SSHAddresses = []string{"no port"} },
		func(s *sco.Settings) { s.SSHAddresses = make([]string, 17) },
		func(s *sco.Settings) { s.Key = nil },
	} {
		w.settings.Store(good)
		w.change(bad)
		_, err := w.onboard(t.TempDir(), token, nil)
		require.Error(t, err)
		w.noRefusalYet("r")
	}
	// The repair is seen at once, without a restart.
	w.settings.Store(good)
	_, err = w.onboard(t.TempDir(), token, nil)
	require.NoError(t, err)
}

func TestServeEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	conn := w.dial()
	w.stop()
	_, err := io.Copy(io.Discard, conn)
	_ = err
	_, err = net.Dial("tcp", w.addr)
	require.Error(t, err)
	require.ErrorIs(t, w.cond.Serve(context.Background(), closedListener(t)), net.ErrClosed)
}

func closedListener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return ln
}
