package tunnel_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

// patience is how long tests wait for what must happen. It is long because the
// machine may be busy.
const patience = 60 * time.Second

func newKey(tb testing.TB) ssh.Signer {
	tb.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(tb, err)
	s, err := ssh.NewSignerFromKey(priv)
	require.NoError(tb, err)
	return s
}

// newKeyFile also writes the key in OpenSSH's format.
func newKeyFile(tb testing.TB, dir, name string) (ssh.Signer, string) {
	tb.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(tb, err)
	s, err := ssh.NewSignerFromKey(priv)
	require.NoError(tb, err)
	block, err := ssh.MarshalPrivateKey(priv, "")
	require.NoError(tb, err)
	path := filepath.Join(dir, name)
	require.NoError(tb, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	return s, path
}

// keyring is an Authorizer whose content tests change.
type keyring struct {
	mu    sync.Mutex
	peers map[string]tunnel.Peer
	fail  error
	calls int
}

func (k *keyring) add(key ssh.PublicKey, p tunnel.Peer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.peers == nil {
		k.peers = make(map[string]tunnel.Peer)
	}
	k.peers[string(key.Marshal())] = p
}

func (k *keyring) remove(key ssh.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.peers, string(key.Marshal()))
}

func (k *keyring) setFail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

func (k *keyring) AuthorizeKey(_ context.Context, _ string, key ssh.PublicKey) (tunnel.Peer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fail != nil {
		return tunnel.Peer{}, k.fail
	}
	p, ok := k.peers[string(key.Marshal())]
	if !ok {
		return tunnel.Peer{}, tunnel.ErrUnauthorized
	}
	return p, nil
}

// watcher is an Observer that tests wait on.
type watcher struct {
	up   chan tunnel.Session
	down chan error
}

func newWatcher() *watcher {
	return &watcher{up: make(chan tunnel.Session, 64), down: make(chan error, 64)}
}

func (w *watcher) Connected(_ context.Context, s tunnel.Session) { w.up <- s }
func (w *watcher) Disconnected(_ context.Context, _ tunnel.Session, reason error) {
	w.down <- reason
}

func (w *watcher) waitUp(tb testing.TB) tunnel.Session {
	tb.Helper()
	select {
	case s := <-w.up:
		return s
	case <-time.After(patience):
		require.FailNow(tb, "no connection came up")
		return tunnel.Session{}
	}
}

func (w *watcher) waitDown(tb testing.TB) error {
	tb.Helper()
	select {
	case err := <-w.down:
		return err
	case <-time.After(patience):
		require.FailNow(tb, "the connection did not go down")
		return nil
	}
}

// world is a conductor and the key of one router.
type world struct {
	tb      testing.TB
	hostKey ssh.Signer
	router  ssh.Signer
	peer    tunnel.Peer
	ring    *keyring
	watch   *watcher
	server  *tunnel.Server
	addr    string
	stop    func() error
}

func mustRules(tb testing.TB, patterns ...string) tunnel.Rules {
	tb.Helper()
	r, err := tunnel.ParseRules(patterns...)
	require.NoError(tb, err)
	return r
}

func loopbackPolicy(tb testing.TB) func(tunnel.Peer) tunnel.Policy {
	p := tunnel.Policy{Dial: mustRules(tb, "127.0.0.0/8:*"), Listen: mustRules(tb, "127.0.0.0/8:*", "localhost:*")}
	return func(tunnel.Peer) tunnel.Policy { return p }
}

func newWorld(tb testing.TB, change func(*tunnel.ServerConfig)) *world {
	tb.Helper()
	w := &world{tb: tb, hostKey: newKey(tb), router: newKey(tb), ring: &keyring{}, watch: newWatcher(),
		peer: tunnel.Peer{AssetID: "asset-1", Router: "branch", Node: "node0"}}
	w.ring.add(w.router.PublicKey(), w.peer)
	cfg := tunnel.ServerConfig{HostKeys: []ssh.Signer{w.hostKey}, Authorizer: w.ring, Observer: w.watch,
		Policy: loopbackPolicy(tb), Logger: testLogger(tb)}
	if change != nil {
		change(&cfg)
	}
	var err error
	w.server, err = tunnel.NewServer(cfg)
	require.NoError(tb, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	w.addr = ln.Addr().String()
	w.stop = background(tb, func(ctx context.Context) error { return w.server.Serve(ctx, ln) })
	return w
}

// background runs f until the test ends or the returned function is called.
func background(tb testing.TB, f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				err = errors.New("did not stop")
			}
		})
		return err
	}
	tb.Cleanup(func() { require.ErrorIs(tb, ignoreReboot(stop()), context.Canceled) })
	return stop
}

func ignoreReboot(err error) error {
	if errors.Is(err, tunnel.ErrReboot) {
		return context.Canceled
	}
	return err
}

func (w *world) clientConfig() tunnel.ClientConfig {
	return tunnel.ClientConfig{Addresses: []string{w.addr}, HostKeys: []ssh.PublicKey{w.hostKey.PublicKey()},
		Signer: w.router, MinDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond, Logger: testLogger(w.tb)}
}

func (w *world) client(change func(*tunnel.ClientConfig)) (*tunnel.Client, *watcher, func() error) {
	w.tb.Helper()
	watch := newWatcher()
	cfg := w.clientConfig()
	cfg.Observer = watch
	if change != nil {
		change(&cfg)
	}
	c, err := tunnel.NewClient(cfg)
	require.NoError(w.tb, err)
	return c, watch, background(w.tb, c.Run)
}

// raw is a connection by x/crypto alone, for what our client would not send.
func (w *world) raw(signers ...ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", w.addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: ssh.FixedHostKey(w.hostKey.PublicKey()), Timeout: patience,
	})
}

// rawChannels is raw without the client that answers channels by itself.
func (w *world) rawChannels() (ssh.Conn, <-chan ssh.NewChannel) {
	w.tb.Helper()
	conn, chans, reqs, err := ssh.NewClientConn(dialTCP(w.tb, w.addr), w.addr, &ssh.ClientConfig{
		User: "router", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.router)}, HostKeyCallback: ssh.FixedHostKey(w.hostKey.PublicKey())})
	require.NoError(w.tb, err)
	go ssh.DiscardRequests(reqs)
	return conn, chans
}

// echo listens on loopback and sends back what it gets, with a half-close.
func echo(tb testing.TB) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	var conns sync.WaitGroup
	tb.Cleanup(func() {
		_ = ln.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	return ln.Addr().String()
}

// exchange sends a megabyte through c, closes the sending side, and expects all
// of it back.
func exchange(tb testing.TB, c net.Conn) {
	tb.Helper()
	defer c.Close()
	out := make([]byte, 1<<20)
	_, _ = rand.Read(out)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		if hc, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
			err = hc.CloseWrite()
		}
		sent <- err
	}()
	in, err := io.ReadAll(c)
	require.NoError(tb, err)
	require.NoError(tb, <-sent)
	require.Equal(tb, len(out), len(in))
	require.Equal(tb, out, in)
}

func dialTCP(tb testing.TB, addr string) net.Conn {
	tb.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	require.NoError(tb, err)
	return c
}

// freeAddr is for programs that can't be given a listener or port 0. The address
// is a loopback address that nothing else uses, so that the port stays free.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	var b [3]byte
	_, _ = rand.Read(b[:])
	ln, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+b[0]%254, b[1], 1+b[2]%254))
	require.NoError(tb, err)
	defer ln.Close()
	return ln.Addr().String()
}

type testWriter struct {
	mu   sync.Mutex
	tb   testing.TB
	done bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.tb.Logf("%s", p)
	}
	return len(p), nil
}

func testLogger(tb testing.TB) *slog.Logger {
	w := &testWriter{tb: tb}
	tb.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.done = true
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits for a condition that has no event to wait for.
func eventually(tb testing.TB, ok func() bool, what string) {
	tb.Helper()
	require.Eventually(tb, ok, patience, 5*time.Millisecond, what)
}
