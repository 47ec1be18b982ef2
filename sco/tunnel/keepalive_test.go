package tunnel_test

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

// pipeEnd is one end of a connection in memory that has buffers, as TCP has and
// net.Pipe has not, and that can go silent: then it takes what is written and
// never delivers it.
type pipeEnd struct {
	mu     *sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
	silent bool
	other  *pipeEnd
}

func newPipe() (a, b *pipeEnd) {
	mu := new(sync.Mutex)
	a = &pipeEnd{mu: mu, cond: sync.NewCond(mu)}
	b = &pipeEnd{mu: mu, cond: sync.NewCond(mu), other: a}
	a.other = b
	return a, b
}

func (p *pipeEnd) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 {
		if p.closed || p.other.closed && !p.silent {
			return 0, net.ErrClosed
		}
		p.cond.Wait()
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	return n, nil
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, net.ErrClosed
	}
	if !p.silent {
		p.other.buf = append(p.other.buf, b...)
		p.other.cond.Broadcast()
	}
	return len(b), nil
}

func (p *pipeEnd) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
	p.other.cond.Broadcast()
	return nil
}

// cut loses everything from now on, in both directions, close included.
func (p *pipeEnd) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent, p.other.silent = true, true
}

func (p *pipeEnd) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (p *pipeEnd) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)} }
func (p *pipeEnd) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (p *pipeEnd) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (p *pipeEnd) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// memory is a listener and the way to dial it.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.done) }); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{} }

// TestSilentPeerIsNoticed runs in fake time: a link over which nothing arrives
// any more is closed by both sides in twice the keepalive, and the router is back
// after its first delay.
func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hostKey, router := newKey(t), newKey(t)
		ring := &keyring{}
		ring.add(router.PublicKey(), tunnel.Peer{AssetID: "a"})
		up, down := newWatcher(), newWatcher()
		srv, err := tunnel.NewServer(tunnel.ServerConfig{HostKeys: []ssh.Signer{hostKey}, Authorizer: ring, Observer: up, KeepAlive: 30 * time.Second})
		require.NoError(t, err)
		m := &memory{conns: make(chan net.Conn), done: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(ctx, m) })
		dialed := make(chan *pipeEnd, 8)
		c, err := tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{"conductor:930"}, HostKeys: []ssh.PublicKey{hostKey.PublicKey()},
			Signer: router, Observer: down, KeepAlive: 15 * time.Second,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				a, b := newPipe()
				m.conns <- b
				dialed <- a
				return a, nil
			}})
		require.NoError(t, err)
		wg.Go(func() { _ = c.Run(ctx) })

		<-up.up
		<-down.up
		first := <-dialed
		// Ten minutes of quiet are no reason to end.
		time.Sleep(10 * time.Minute)
		require.Empty(t, up.down)
		require.Empty(t, down.down)

		first.cut()
		cutAt := time.Now()
		require.ErrorContains(t, <-down.down, "does not answer")
		require.LessOrEqual(t, time.Since(cutAt), 30*time.Second)
		<-down.up
		require.LessOrEqual(t, time.Since(cutAt), 32*time.Second, "back after the first delay")
		require.ErrorContains(t, <-up.down, "does not answer")
		require.LessOrEqual(t, time.Since(cutAt), 60*time.Second)
		cancel()
		wg.Wait()
	})
}

// TestDelaysGrowAndNeverEnd watches a router whose conductor is away for a day.
func TestDelaysGrowAndNeverEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		c, err := tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{"a:1", "b:2"}, HostKeys: []ssh.PublicKey{newKey(t).PublicKey()}, Signer: newKey(t),
			DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
				if addr == "b:2" {
					tries = append(tries, time.Now())
				}
				return nil, net.ErrClosed
			}})
		require.NoError(t, err)
		require.ErrorIs(t, c.Run(ctx), context.DeadlineExceeded)
		require.Greater(t, len(tries), 24*60*60/30)
		require.LessOrEqual(t, tries[1].Sub(tries[0]), 1500*time.Millisecond)
		distinct := map[time.Duration]bool{}
		for i := 1; i < len(tries); i++ {
			d := tries[i].Sub(tries[i-1])
			require.LessOrEqual(t, d, 30*time.Second)
			require.GreaterOrEqual(t, d, 500*time.Millisecond)
			distinct[d] = true
		}
		require.Greater(t, len(distinct), len(tries)/2, "delays vary at random")
	})
}

func TestRequirePostQuantum(t *testing.T) {
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.RequirePostQuantum = true })
	_, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{Config: ssh.Config{KeyExchanges: []string{ssh.KeyExchangeCurve25519}},
		User: "router", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.router)}, HostKeyCallback: ssh.FixedHostKey(w.hostKey.PublicKey())})
	require.ErrorContains(t, err, "no common algorithm")
	_, _, _ = w.client(func(cfg *tunnel.ClientConfig) { cfg.RequirePostQuantum = true })
	require.Equal(t, "mlkem768x25519-sha256", w.watch.waitUp(t).KeyExchange)
}
