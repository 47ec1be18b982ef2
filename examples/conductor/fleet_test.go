package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// BenchmarkFleetBack restarts a conductor, store and all, under 2,000 routers: it
// has to look up each key in SQLite, to record each connection durably, and to
// write the audit record, while all of them come at once.
func BenchmarkFleetBack(b *testing.B) {
	const n = 2000
	for b.Loop() {
		took := fleetBack(b, n, 40*time.Second)
		b.ReportMetric(took.Seconds(), "s-back")
		if took > time.Minute {
			b.Errorf("all back after %s, more than a minute", took)
		}
	}
}

// TestFleetBack is the benchmark at a size that fits the tests.
func TestFleetBack(t *testing.T) {
	took := fleetBack(t, 60, time.Second)
	t.Logf("all back after %s", took)
	require.Less(t, took, time.Minute)
}

func fleetBack(tb testing.TB, n int, away time.Duration) time.Duration {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := tb.TempDir() + "/c"
	_, err := runQuietly("init", "-dir", dir, "-host", "127.0.0.1")
	require.NoError(tb, err)
	log := slog.New(slog.DiscardHandler)
	s, err := open(ctx, dir, "", log)
	require.NoError(tb, err)
	defer s.Close()
	_, store, err := openStore(ctx, dir+"/"+fileStore)
	require.NoError(tb, err)
	host, err := readHostKey(dir)
	require.NoError(tb, err)

	ln, err := net.Listen("tcp", ownLoopback()+":0")
	require.NoError(tb, err)
	address := ln.Addr().String()
	require.NoError(tb, ln.Close())
	var routers sync.WaitGroup
	defer routers.Wait()
	defer cancel()
	for i := range n {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(tb, err)
		signer, err := ssh.NewSignerFromKey(key)
		require.NoError(tb, err)
		name := fmt.Sprintf("r%d", i)
		require.NoError(tb, store.Update(ctx, name, func(*sco.Router) (*sco.Router, error) {
			return &sco.Router{Name: name, Mode: sco.ModeWeak, Secret: sco.NewSecret(), Nodes: []sco.Node{{Name: "node0", AssetID: name, Role: "combo",
				Status: sco.Status{State: sco.StateKeysExchanged, SSHKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}}}}, nil
		}))
		client, err := tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{address}, HostKeys: []ssh.PublicKey{host.PublicKey()}, Signer: signer})
		require.NoError(tb, err)
		routers.Go(func() { _ = client.Run(ctx) })
	}
	up := func() int {
		count := 0
		require.NoError(tb, s.registry.List(ctx, func(r *sco.Router) bool {
			if r.Nodes[0].Status.Link.Up {
				count++
			}
			return true
		}))
		return count
	}
	serve := func() (stop func()) {
		work, end := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- s.serve(work, serveConfig{onboarding: "127.0.0.1:0", ssh: address, log: log}) }()
		return func() {
			end()
			require.NoError(tb, <-done)
		}
	}
	all := func() bool { return up() == n }
	stop := serve()
	require.Eventually(tb, all, 3*time.Minute, 500*time.Millisecond)
	stop()
	require.Less(tb, up(), n, "a conductor that stops writes down that tunnels are gone")
	time.Sleep(away)
	began := time.Now()
	stop = serve()
	require.Eventually(tb, all, 3*time.Minute, 500*time.Millisecond)
	took := time.Since(began)
	cancel()
	stop()
	return took
}

// runQuietly runs a command in this process.
func runQuietly(args ...string) (string, error) {
	var out strings.Builder
	err := run(context.Background(), args, strings.NewReader(""), &out, &out)
	return out.String(), err
}
