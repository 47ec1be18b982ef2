package tunnel_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

// clientsEnv holds "ADDRESS SEED COUNT" for a child process that is COUNT routers,
// so that only the conductor's memory is in the process that is measured.
const clientsEnv = "TUNNEL_TEST_CLIENTS"

func TestMain(m *testing.M) {
	if job := os.Getenv(clientsEnv); job != "" {
		if err := beRouters(strings.Fields(job)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// derived returns the i-th key of a run; both processes know the seed.
func derived(seed string, i int) (ssh.Signer, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", seed, i))
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(sum[:]))
}

const hostIndex = -1

// beRouters runs until the parent closes the standard input.
func beRouters(job []string) error {
	n, err := strconv.Atoi(job[2])
	if err != nil {
		return err
	}
	host, err := derived(job[1], hostIndex)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for i := range n {
		key, err := derived(job[1], i)
		if err != nil {
			return err
		}
		// All settings are the defaults.
		c, err := tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{job[0]}, HostKeys: []ssh.PublicKey{host.PublicKey()}, Signer: key})
		if err != nil {
			return err
		}
		wg.Go(func() { _ = c.Run(ctx) })
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	cancel()
	wg.Wait()
	return nil
}

// count is an Observer that knows how many are there.
type counter struct {
	mu      sync.Mutex
	n       int
	reached map[int]chan struct{}
}

func (c *counter) add(d int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += d
	if ch, ok := c.reached[c.n]; ok {
		close(ch)
		delete(c.reached, c.n)
	}
}

func (c *counter) Connected(context.Context, tunnel.Session)           { c.add(1) }
func (c *counter) Disconnected(context.Context, tunnel.Session, error) { c.add(-1) }

// wait returns when exactly n are there.
func (c *counter) wait(tb testing.TB, n int, limit time.Duration) {
	tb.Helper()
	c.mu.Lock()
	if c.n == n {
		c.mu.Unlock()
		return
	}
	if c.reached == nil {
		c.reached = make(map[int]chan struct{})
	}
	ch, ok := c.reached[n]
	if !ok {
		ch = make(chan struct{})
		c.reached[n] = ch
	}
	c.mu.Unlock()
	select {
	case <-ch:
	case <-time.After(limit):
		c.mu.Lock()
		defer c.mu.Unlock()
		require.FailNow(tb, "too slow", "%d of %d connections after %s", c.n, n, limit)
	}
}

// footprint is what this process holds: memory that the operating system sees,
// and what the Go runtime uses of it.
type footprint struct{ rss, inUse float64 }

func measureFootprint(tb testing.TB) footprint {
	tb.Helper()
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{inUse: float64(m.HeapInuse + m.StackInuse)}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return f
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			require.NoError(tb, err)
			f.rss = kib * 1024
		}
	}
	return f
}

// fleet is a conductor in this process and its routers in another.
type fleet struct {
	tb   testing.TB
	n    int
	seed string
	addr string
	ring *keyring
	host ssh.Signer
}

func newFleet(tb testing.TB, n int) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, n: n, seed: strconv.FormatInt(time.Now().UnixNano(), 36), addr: freeAddr(tb), ring: &keyring{}}
	var err error
	f.host, err = derived(f.seed, hostIndex)
	require.NoError(tb, err)
	for i := range n {
		key, err := derived(f.seed, i)
		require.NoError(tb, err)
		f.ring.add(key.PublicKey(), tunnel.Peer{AssetID: strconv.Itoa(i), Router: "r", Node: "n"})
	}
	return f
}

func (f *fleet) startRouters() (stop func()) {
	f.tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", clientsEnv, f.addr, f.seed, f.n))
	stdin, err := cmd.StdinPipe()
	require.NoError(f.tb, err)
	cmd.Stderr = os.Stderr
	require.NoError(f.tb, cmd.Start())
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = stdin.Close()
			_ = cmd.Wait()
		})
	}
	f.tb.Cleanup(stop)
	return stop
}

// serve runs our server; the settings are the defaults.
func (f *fleet) serve() (c *counter, stop func()) {
	f.tb.Helper()
	c = &counter{}
	srv, err := tunnel.NewServer(tunnel.ServerConfig{HostKeys: []ssh.Signer{f.host}, Authorizer: f.ring, Observer: c})
	require.NoError(f.tb, err)
	return c, f.listen(func(ctx context.Context, ln net.Listener) error { return srv.Serve(ctx, ln) })
}

// serveBare runs the least that x/crypto needs for a connection to stay.
func (f *fleet) serveBare() (c *counter, stop func()) {
	f.tb.Helper()
	c = &counter{}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		_, err := f.ring.AuthorizeKey(context.Background(), "", key)
		return nil, err
	}}
	cfg.AddHostKey(f.host)
	return c, f.listen(func(ctx context.Context, ln net.Listener) error {
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			nc, err := ln.Accept()
			if err != nil {
				return ctx.Err()
			}
			wg.Go(func() {
				defer nc.Close()
				defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
				_, chans, reqs, err := ssh.NewServerConn(nc, cfg)
				if err != nil {
					return
				}
				c.add(1)
				go ssh.DiscardRequests(reqs)
				for ch := range chans {
					_ = ch.Reject(ssh.Prohibited, "")
				}
				c.add(-1)
			})
		}
	})
}

func (f *fleet) listen(serve func(context.Context, net.Listener) error) (stop func()) {
	f.tb.Helper()
	ln, err := net.Listen("tcp", f.addr)
	require.NoError(f.tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				f.tb.Errorf("serving: %v", err)
			}
		})
	}
	f.tb.Cleanup(stop)
	return stop
}

// perTunnel measures what a quiet connection costs a server, in KiB.
func (f *fleet) perTunnel(serve func() (*counter, func())) (rss, inUse float64) {
	f.tb.Helper()
	before := measureFootprint(f.tb)
	c, stop := serve()
	stopRouters := f.startRouters()
	c.wait(f.tb, f.n, 3*time.Minute)
	after := measureFootprint(f.tb)
	stopRouters()
	c.wait(f.tb, 0, time.Minute)
	stop()
	per := func(a, b float64) float64 { return (a - b) / float64(f.n) / 1024 }
	return per(after.rss, before.rss), per(after.inUse, before.inUse)
}

// back measures how long it takes until all are there again after the conductor
// was away for a while.
func (f *fleet) back(away time.Duration) time.Duration {
	f.tb.Helper()
	c, stop := f.serve()
	f.startRouters()
	c.wait(f.tb, f.n, 3*time.Minute)
	stop()
	time.Sleep(away)
	c, _ = f.serve()
	began := time.Now()
	c.wait(f.tb, f.n, 2*time.Minute)
	return time.Since(began)
}

// The promises of README.md, which BenchmarkTunnels keeps at 2,000 tunnels.
const (
	maxPerTunnel = 100 // KiB
	maxBack      = time.Minute
)

// TestManyTunnels is BenchmarkTunnels at a size that fits the tests.
func TestManyTunnels(t *testing.T) {
	n := 200
	if raceDetector {
		n = 50
	}
	f := newFleet(t, n)
	_, inUse := f.perTunnel(f.serve)
	t.Logf("%.1f KiB per tunnel", inUse)
	// With the race detector its own memory is measured as well.
	if !raceDetector {
		require.Less(t, inUse, float64(maxPerTunnel))
	}
	took := f.back(3 * time.Second)
	t.Logf("all back after %s", took)
	require.Less(t, took, maxBack)
}

// BenchmarkTunnels holds 2,000 quiet connections, beside the same with a bare
// x/crypto server, and then restarts the conductor after 40 s, when every
// router's delay has grown to the longest.
func BenchmarkTunnels(b *testing.B) {
	const n = 2000
	for b.Loop() {
		f := newFleet(b, n)
		bareRSS, bareInUse := f.perTunnel(f.serveBare)
		rss, inUse := f.perTunnel(f.serve)
		back := f.back(40 * time.Second)
		b.ReportMetric(rss, "KiB-rss/tunnel")
		b.ReportMetric(inUse, "KiB-in-use/tunnel")
		b.ReportMetric(bareRSS, "KiB-rss/bare")
		b.ReportMetric(bareInUse, "KiB-in-use/bare")
		b.ReportMetric(inUse/bareInUse, "ratio")
		b.ReportMetric(back.Seconds(), "s-back")
		if rss > maxPerTunnel {
			b.Errorf("%.1f KiB per tunnel are more than %d", rss, maxPerTunnel)
		}
		if back > maxBack {
			b.Errorf("all back after %s, more than %s", back, maxBack)
		}
	}
}
