package sco_test

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// TestRouterCrash kills the router before each of its durable steps and runs it
// again.
func TestRouterCrash(t *testing.T) {
	w := newWorld(t)
	n := 0
	type site struct {
		router, dir string
		token       sco.Token
	}
	durabletest.EachStop(t, func(t *testing.T) *site {
		n++
		name := "r" + string(rune('A'+n/26)) + string(rune('a'+n%26))
		w.router(name, sco.ModePSKOnly)
		return &site{name, filepath.Join(t.TempDir(), "router"), w.token(name)}
	}, func(s *site, d durable.Writer) error {
		_, err := w.onboard(s.dir, s.token, nil, func(c *sco.OnboardConfig) { c.SetDurable(d) })
		return err
	}, func(t *testing.T, s *site, done bool) {
		before, err := sco.LoadEnrollment(s.dir)
		if done {
			require.NoError(t, err)
		}
		if err == nil {
			// What can be read is whole.
			require.NotNil(t, before.Signer())
			require.NotEmpty(t, before.HostKeys)
		} else {
			require.ErrorIs(t, err, sco.ErrNotOnboarded)
		}
		after, err := w.onboard(s.dir, s.token, nil)
		require.NoError(t, err, "a plain run after the crash")
		if before != nil {
			require.Equal(t, before.Signer().PublicKey(), after.Signer().PublicKey())
		}
		st := w.node(s.router, s.router+"-0").Status
		require.Equal(t, sco.StateKeysExchanged, st.State)
		entries, err := os.ReadDir(s.dir)
		require.NoError(t, err)
		require.Len(t, entries, 4, "no temporary files are left")
	})
}

// cutConn ends a connection in the middle of the n-th transfer.
type cutConn struct {
	net.Conn
	mu    sync.Mutex
	after int
	read  bool
}

var errCut = errors.New("the line was cut")

func (c *cutConn) step(read bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if read != c.read {
		return false
	}
	c.after--
	return c.after < 0
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.step(true) {
		_ = c.Conn.Close()
		return 0, errCut
	}
	return c.Conn.Read(b)
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.step(false) {
		_, _ = c.Conn.Write(b[:len(b)/2])
		_ = c.Conn.Close()
		return 0, errCut
	}
	return c.Conn.Write(b)
}

// TestLostMessages cuts the line at every transfer of either side, and then runs
// the router again.
func TestLostMessages(t *testing.T) {
	maker := newAuthority(t, "maker")
	w := newWorld(t)
	w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
	key := ecKey(t, elliptic.P256())
	for _, read := range []bool{false, true} {
		completed := false
		for n := 0; n < 60 && !completed; n++ {
			name := "w"
			if read {
				name = "r"
			}
			name += string(rune('a'+n/26)) + string(rune('a'+n%26))
			w.router(name, sco.ModeStrong)
			token, dir, id := w.token(name), t.TempDir(), deviceID(t, maker, key, name+"-0")
			first, err := w.onboard(dir, token, id, func(c *sco.OnboardConfig) {
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := net.Dial(network, addr)
					return &cutConn{Conn: conn, after: n, read: read}, err
				}
			})
			completed = err == nil && n > 3 && w.node(name, name+"-0").Status.State == sco.StateKeysExchanged
			state := w.node(name, name+"-0").Status.State
			again, err2 := w.onboard(dir, token, id)
			require.NoError(t, err2, "%s: %v", name, err)
			if err == nil {
				require.Equal(t, first.Signer().PublicKey(), again.Signer().PublicKey())
				require.Equal(t, first.HostKeys, again.HostKeys)
			}
			st := w.node(name, name+"-0").Status
			require.Equal(t, sco.StateKeysExchanged, st.State)
			require.GreaterOrEqual(t, st.State, state)
			require.Empty(t, st.LastError)
		}
		require.True(t, completed, "the line was cut later and later until nothing was left to cut")
	}
}

// stopStore dies before or after the n-th change.
type stopStore struct {
	sco.RouterStore
	mu     sync.Mutex
	n      int
	after  bool
	closed bool
	die    func()
}

var errDied = errors.New("the conductor died")

func (s *stopStore) Update(ctx context.Context, name string, fn func(*sco.Router) (*sco.Router, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errDied
	}
	s.n--
	if s.n >= 0 {
		return s.RouterStore.Update(ctx, name, fn)
	}
	s.closed = true
	if s.after {
		_ = s.RouterStore.Update(ctx, name, fn)
	}
	go s.die()
	return errDied
}

// TestConductorCrash ends the conductor before and after each change of its
// store, starts another one on the same store, and runs the router again.
func TestConductorCrash(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := range 4 {
			store := &sco.MemoryStore{}
			dying := &stopStore{RouterStore: store, n: 1000, after: after}
			w := newWorld(t, withStore(dying))
			w.router("r", sco.ModePSKOnly)
			token, dir := w.token("r"), t.TempDir()
			dying.mu.Lock()
			dying.n, dying.die = n, w.stop
			dying.mu.Unlock()
			_, err := w.onboard(dir, token, nil)
			if n == 0 {
				require.Error(t, err)
			}
			w.stop()

			next := newWorld(t, withStore(store))
			next.settings.Store(w.settings.Load())
			before := next.node("r", "r-0").Status
			_, err = next.onboard(dir, token, nil)
			require.NoError(t, err)
			st := next.node("r", "r-0").Status
			require.Equal(t, sco.StateKeysExchanged, st.State)
			require.GreaterOrEqual(t, st.State, before.State)
			if before.Binding != nil {
				require.Equal(t, before.Binding, st.Binding)
			}
			_, err = next.onboard(t.TempDir(), token, nil)
			next.refused(err, "r", "r-0", "is bound")
		}
	}
}

// TestLateFailureDoesNotHideASuccess gives up an old attempt after a newer one
// has succeeded.
func TestLateFailureDoesNotHideASuccess(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	old := w.mallory(token.Reveal(), sco.NoDeviceKey())
	old.sendHello(nil)
	old.readChallenge()
	w.offset.Store(int64(time.Second))
	_, err := w.onboard(t.TempDir(), token, nil)
	require.NoError(t, err)
	old.sendProof(&wire.Proof{})
	old.refused()
	require.Contains(t, w.events.reason(t), "signature is malformed", "the audit record has it")
	require.Empty(t, w.node("r", "r-0").Status.LastError)
}

// TestReasonsAreKeptAfterTheClockWasSetBack: an attempt that seems to lie hours
// before the last one is still the last one.
func TestReasonsAreKeptAfterTheClockWasSetBack(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	w.offset.Store(int64(time.Hour))
	_, err := w.onboard(t.TempDir(), token, nil)
	require.NoError(t, err)
	w.offset.Store(0)
	_, err = w.onboard(t.TempDir(), token, nil)
	w.refused(err, "r", "r-0", "is bound to")
}

func TestOnboardAgainAndAfterExpiry(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	token, dir := w.token("r"), t.TempDir()
	installed := 0
	hook := func(c *sco.OnboardConfig) {
		c.InstallCA = func(_ context.Context, ca *x509.Certificate) error {
			require.True(t, ca.Equal(w.ca.cert))
			installed++
			return nil
		}
	}
	first, err := w.onboard(dir, token, nil, hook)
	require.NoError(t, err)
	for range 3 {
		again, err := w.onboard(dir, token, nil, hook)
		require.NoError(t, err)
		require.Equal(t, first.Signer().PublicKey(), again.Signer().PublicKey())
	}
	require.Equal(t, 4, installed)
	late := func(c *sco.OnboardConfig) { c.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } }
	_, err = w.onboard(dir, token, nil, late)
	require.NoError(t, err, "stored, and the token is old: nobody is asked")
	_, err = w.onboard(t.TempDir(), token, nil, func(c *sco.OnboardConfig) { c.Addresses = []string{"127.0.0.1:1"} })
	require.Error(t, err)

	// A hook that fails leaves what there was.
	fresh := t.TempDir()
	broken := errors.New("no space")
	_, err = w.onboard(fresh, token, nil, func(c *sco.OnboardConfig) {
		c.InstallCA = func(context.Context, *x509.Certificate) error { return broken }
	})
	require.Error(t, err)
	_, err = sco.LoadEnrollment(fresh)
	require.ErrorIs(t, err, sco.ErrNotOnboarded)
}

// TestRouterClockAtItsFactoryValue: the certificate is judged at the token's
// time when the router's clock is behind it.
func TestRouterClockAtItsFactoryValue(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	_, err := w.onboard(t.TempDir(), w.token("r"), nil, func(c *sco.OnboardConfig) {
		c.Now = func() time.Time { return time.Unix(0, 0) }
	})
	require.NoError(t, err)
	_, err = w.onboard(t.TempDir(), w.token("r"), nil, func(c *sco.OnboardConfig) {
		c.Now = func() time.Time { return time.Now().Add(5000 * time.Hour) }
	})
	require.ErrorIs(t, err, sco.ErrConductor)
}

func TestOnboardTriesAddressesInOrder(t *testing.T) {
	a := newWorld(t)
	b := newWorld(t, withStore(a.store))
	b.settings.Store(a.settings.Load())
	a.router("r", sco.ModePSKOnly)
	token := a.token("r")
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	addrs := []string{dead.Addr().String(), a.addr, b.addr}
	with := func(c *sco.OnboardConfig) { c.Addresses = addrs }
	dir := t.TempDir()
	_, err = a.onboard(dir, token, nil, with)
	require.NoError(t, err)
	require.Len(t, a.events.of("sco.onboarded"), 1)
	// One conductor node is gone: the other knows the same.
	a.stop()
	_, err = a.onboard(dir, token, nil, with)
	require.NoError(t, err)
	require.Len(t, b.events.of("sco.onboarded"), 1)
	b.stop()
	_, err = a.onboard(dir, token, nil, with)
	require.Error(t, err)
	for _, addr := range addrs {
		require.ErrorContains(t, err, addr)
	}
	require.NotNil(t, mustLoad(t, dir))
}
