package main

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/sco"
)

// spread returns n delays from 0 to longest.
func spread(n int, longest time.Duration) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = longest * time.Duration(i) / time.Duration(n-1)
	}
	return out
}

// onboardingTime is how long an undisturbed run takes, the building of the program
// not counted.
func onboardingTime(s *site, mode string) time.Duration {
	s.t.Helper()
	s.must("router", "add", "-name", "probe", "-mode", mode, "-node", "node0", "-asset-id", "probe")
	token := s.token("probe")
	d := newDevice(s.t, "probe")
	d.mustOnboard(token)
	return measure(func() { d.mustOnboard(token) })
}

// measure tells how long f takes, so that kills are spread over all of it on any
// machine.
func measure(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// TestRouterKilledWhileOnboarding kills the router at moments spread over the
// whole run. A plain run after it has to succeed with the same key.
func TestRouterKilledWhileOnboarding(t *testing.T) {
	s := newSite(t)
	s.start()
	took := onboardingTime(s, "weak")
	for i, delay := range spread(20, took*5/4) {
		name := fmt.Sprintf("r%d", i)
		s.must("router", "add", "-name", name, "-mode", "weak", "-node", "node0", "-asset-id", name)
		token := s.token(name)
		d := newDevice(t, name)
		cmd := d.onboardCmd(token)
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		before, _ := s.node(name)
		d.mustOnboard(token)
		after, _ := s.node(name)
		require.Equal(t, sco.StateKeysExchanged, after.Status.State)
		if before.Status.Binding != nil {
			require.Equal(t, before.Status.Binding, after.Status.Binding, "killed after %s", delay)
		}
		require.GreaterOrEqual(t, after.Status.State, before.Status.State)
	}
}

// TestConductorKilledWhileOnboarding kills the other side, restarts it, and runs
// the router again.
func TestConductorKilledWhileOnboarding(t *testing.T) {
	s := newSite(t)
	s.start()
	took := onboardingTime(s, "psk-only")
	for i, delay := range spread(16, took*5/4) {
		name := fmt.Sprintf("r%d", i)
		s.must("router", "add", "-name", name, "-mode", "psk-only", "-node", "node0", "-asset-id", name)
		token := s.token(name)
		d := newDevice(t, name)
		cmd := d.onboardCmd(token)
		var out bytes.Buffer
		cmd.Stderr = &out
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		s.serve.kill()
		if err := cmd.Wait(); err != nil {
			requireOneLine(t, out.String())
		}
		before, _ := s.node(name)
		s.start()
		d.mustOnboard(token)
		after, _ := s.node(name)
		require.Equal(t, sco.StateKeysExchanged, after.Status.State, "killed after %s", delay)
		if before.Status.Binding != nil {
			require.Equal(t, before.Status.Binding, after.Status.Binding)
		}
	}
}

// TestKilledTunnel kills either side of tunnels, several times.
func TestKilledTunnel(t *testing.T) {
	s := newSite(t)
	s.start()
	s.must("router", "add", "-name", "r", "-mode", "psk-only", "-node", "node0", "-asset-id", "A")
	d := newDevice(t, "A")
	d.mustOnboard(s.token("r"))
	target, local := echo(t), freeAddr(t)
	forward := []string{"-forward", "local:" + local + "=" + target}
	// The first one is killed before the router can be initialized, and at
	// moments around it.
	for _, delay := range spread(8, 200*time.Millisecond) {
		p := d.run(forward...)
		time.Sleep(delay)
		p.kill()
	}
	p := d.run(forward...)
	exchange(t, local)
	s.waitNode("r", "initialized", func(n *sco.Node) bool { return n.Status.State == sco.StateInitialized && n.Status.Link.Up })
	for range 3 {
		s.serve.kill()
		s.start()
		n, _ := s.node("r")
		require.Equal(t, sco.StateInitialized, n.Status.State)
		exchange(t, local)
	}
	s.waitNode("r", "up", func(n *sco.Node) bool { return n.Status.Link.Up })
	p.kill()
	state, _ := d.state()
	require.Equal(t, "onboarded", state, "a run that was killed is not connected")
	s.waitNode("r", "down", func(n *sco.Node) bool { return !n.Status.Link.Up })
}

// TestConductorRestartKeepsEveryState restarts with one node in each state.
func TestConductorRestartKeepsEveryState(t *testing.T) {
	s := newSite(t)
	s.start()
	names := []string{"waiting", "keys-exchanged", "initialized", "refused", "disabled"}
	devices := map[string]*device{}
	for _, name := range names {
		s.must("router", "add", "-name", name, "-mode", map[bool]string{true: "disabled", false: "weak"}[name == "disabled"], "-node", "node0", "-asset-id", name)
		devices[name] = newDevice(t, name)
	}
	devices["keys-exchanged"].mustOnboard(s.token("keys-exchanged"))
	devices["initialized"].mustOnboard(s.token("initialized"))
	p := devices["initialized"].run()
	s.waitNode("initialized", "initialized", func(n *sco.Node) bool { return n.Status.State == sco.StateInitialized })
	p.stop(t)
	s.waitNode("initialized", "down", func(n *sco.Node) bool { return !n.Status.Link.Up })
	devices["refused"].mustOnboard(s.token("refused"))
	_, err := newDevice(t, "refused").onboard(s.token("refused"))
	require.Error(t, err)
	s.waitNode("refused", "reason", func(n *sco.Node) bool { return n.Status.LastError != "" })

	before := s.must("router", "list", "-json")
	for _, how := range []func(){func() { s.serve.stop(t) }, func() { s.serve.kill() }} {
		how()
		s.start()
		require.JSONEq(t, before, s.must("router", "list", "-json"))
	}
	n, _ := s.node("keys-exchanged")
	require.Equal(t, sco.StateKeysExchanged, n.Status.State)
	n, _ = s.node("waiting")
	require.Equal(t, sco.StateWaiting, n.Status.State)
}

// TestInitKilled kills init at moments spread over its run; running it again has
// to give a conductor that works.
func TestInitKilled(t *testing.T) {
	dir := t.TempDir()
	initCmd := func(name string) []string {
		return []string{"init", "-dir", filepath.Join(dir, name), "-host", "127.0.0.1"}
	}
	took := measure(func() {
		out, err := conductorCmd(initCmd("probe")...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	for i, delay := range spread(12, took*5/4) {
		name := fmt.Sprintf("c%d", i)
		cmd := conductorCmd(initCmd(name)...)
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s := &site{t: t, dir: filepath.Join(dir, name)}
		if _, err := os.Stat(filepath.Join(s.dir, fileMarker)); err == nil {
			_, err := s.call("init")
			require.ErrorContains(t, err, "already")
		} else {
			s.must("init", "-host", "127.0.0.1")
		}
		s.must("router", "add", "-name", "r", "-mode", "weak", "-node", "node0", "-asset-id", "A")
		require.NotEmpty(t, s.must("token", "-router", "r"))
		_, err := os.Stat(filepath.Join(s.dir, fileBegun))
		if err == nil {
			// It was killed between the marker and the end, which is harmless.
			continue
		}
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// TestChangesKilled kills "router add" and "router set"; what is there afterwards
// is the old or the new router, never something between.
func TestChangesKilled(t *testing.T) {
	s := newSite(t)
	kill := func(delay time.Duration, args ...string) {
		cmd := conductorCmd(append(args, "-dir", s.dir)...)
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	took := measure(func() { kill(0, "router", "list") }) + 20*time.Millisecond
	for i, delay := range spread(12, 4*took) {
		name := fmt.Sprintf("r%d", i)
		kill(delay, "router", "add", "-name", name, "-mode", "weak", "-node", "node0", "-asset-id", name)
		if _, err := s.call("router", "show", "-name", name); err != nil {
			s.must("router", "add", "-name", name, "-mode", "weak", "-node", "node0", "-asset-id", name)
		}
		kill(delay, "router", "set", "-name", name, "-asset-id", name+"-new")
		n, _ := s.node(name)
		require.Contains(t, []string{name, name + "-new"}, n.AssetID)
		s.must("router", "set", "-name", name, "-asset-id", name+"-new")
		_, err := s.call("legacy", "-asset-id", name)
		require.ErrorContains(t, err, "no router has the asset-id")
	}
}

// TestInitStopped stops init before each durable step.
func TestInitStopped(t *testing.T) {
	id, err := newIdentity([]string{"192.0.2.1"}, time.Now())
	require.NoError(t, err)
	durabletest.EachStop(t,
		func(t *testing.T) string { return filepath.Join(t.TempDir(), "c") },
		func(dir string, w durable.Writer) error { return writeDir(t.Context(), w, dir, id) },
		func(t *testing.T, dir string, done bool) {
			s := &site{t: t, dir: dir}
			_, err := s.call("token", "-router", "r")
			if _, serr := os.Stat(filepath.Join(dir, fileMarker)); serr != nil {
				require.False(t, done)
				require.ErrorContains(t, err, "conductor init")
				s.must("init", "-host", "192.0.2.1")
			}
			s.must("router", "add", "-name", "r", "-mode", "weak", "-node", "node0", "-asset-id", "A")
			require.NotEmpty(t, s.must("token", "-router", "r"))
		})
}

// TestRootsStopped stops the adding of roots: the old ones stay, whole.
func TestRootsStopped(t *testing.T) {
	first, second := newManufacturer(t), newManufacturer(t)
	durabletest.EachStop(t,
		func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), fileRoots)
			require.NoError(t, addRoots(durable.Writer{}, path, []*x509.Certificate{first.root}))
			return path
		},
		func(path string, w durable.Writer) error {
			return addRoots(w, path, []*x509.Certificate{second.root})
		},
		func(t *testing.T, path string, done bool) {
			have, err := readCertificates(path)
			require.NoError(t, err)
			require.True(t, have[0].Equal(first.root))
			if done {
				require.Len(t, have, 2)
			}
		})
}
