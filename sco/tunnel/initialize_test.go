package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

type outcome struct {
	peer    tunnel.Peer
	result  tunnel.Result
	problem string
}

type initializer struct {
	config  []byte
	outcome chan outcome
}

func (i *initializer) Configuration(context.Context, tunnel.Peer) ([]byte, error) {
	return i.config, nil
}

func (i *initializer) Initialized(_ context.Context, p tunnel.Peer, r tunnel.Result, problem string) error {
	i.outcome <- outcome{p, r, problem}
	return nil
}

func (i *initializer) wait(t *testing.T) outcome {
	t.Helper()
	select {
	case o := <-i.outcome:
		return o
	case <-time.After(patience):
		require.FailNow(t, "no outcome")
		return outcome{}
	}
}

// applier is a router that needs one reboot for each new configuration.
type applier struct {
	mu     sync.Mutex
	stored []byte
	calls  int
	err    error
	result tunnel.Result
}

func (a *applier) Apply(_ context.Context, config []byte) (tunnel.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.err != nil {
		return 0, a.err
	}
	if a.result != 0 {
		return a.result, nil
	}
	if bytes.Equal(a.stored, config) {
		return tunnel.Applied, nil
	}
	a.stored = config
	return tunnel.RebootNeeded, nil
}

func TestInitializeWithReboot(t *testing.T) {
	in := &initializer{config: bytes.Repeat([]byte("configuration "), 100_000), outcome: make(chan outcome, 8)}
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Initializer = in })
	ap := &applier{}
	cfg := w.clientConfig()
	cfg.Applier = ap
	c, err := tunnel.NewClient(cfg)
	require.NoError(t, err)
	require.ErrorIs(t, c.Run(t.Context()), tunnel.ErrReboot)
	require.Equal(t, outcome{peer: w.peer, result: tunnel.RebootNeeded}, in.wait(t))

	// The router is back; for all it knows it is another process.
	c, err = tunnel.NewClient(cfg)
	require.NoError(t, err)
	background(t, c.Run)
	require.Equal(t, outcome{peer: w.peer, result: tunnel.Applied}, in.wait(t))
	require.Equal(t, in.config, ap.stored)
	require.Equal(t, 2, ap.calls)
}

func TestInitializeFailures(t *testing.T) {
	for _, tc := range []struct {
		name string
		ap   *applier
		want string
	}{
		{"router says why", &applier{err: errors.New("no space\nleft")}, "no space left"},
		{"text is cut", &applier{err: errors.New(strings.Repeat("x", 5000))}, strings.Repeat("x", 1024)},
		{"applier returns nonsense", &applier{result: 77}, "configuration was not applied: Result(77)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := &initializer{config: []byte("c"), outcome: make(chan outcome, 8)}
			w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Initializer = in })
			_, _, _ = w.client(func(cfg *tunnel.ClientConfig) { cfg.Applier = tc.ap })
			require.Equal(t, outcome{w.peer, tunnel.Failed, tc.want}, in.wait(t))
			require.Len(t, w.server.Sessions(), 1)
		})
	}
}

func TestInitializeIsRepeatedAfterALostAnswer(t *testing.T) {
	in := &initializer{config: []byte("c"), outcome: make(chan outcome, 8)}
	w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Initializer = in })
	// The first router takes the configuration and goes away without a word.
	cl, chans := w.rawChannels()
	nc := <-chans
	require.Equal(t, "initialize@mooringlib", nc.ChannelType())
	ch, _, err := nc.Accept()
	require.NoError(t, err)
	_, err = ch.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, cl.Close())
	w.watch.waitUp(t)
	w.watch.waitDown(t)
	require.Empty(t, in.outcome)
	_, _, _ = w.client(func(cfg *tunnel.ClientConfig) { cfg.Applier = &applier{result: tunnel.Applied} })
	require.Equal(t, tunnel.Applied, in.wait(t).result)
}

func TestInitializeAnswerIsBounded(t *testing.T) {
	for name, answer := range map[string][]byte{
		"empty": nil,
		"unknown": ssh.Marshal(struct {
			R byte
			T string
		}{9, ""}),
		"too long": ssh.Marshal(struct {
			R byte
			T string
		}{1, strings.Repeat("x", 1<<20)}),
		"trailing data": append(ssh.Marshal(struct {
			R byte
			T string
		}{1, ""}), 0),
	} {
		t.Run(name, func(t *testing.T) {
			in := &initializer{config: []byte("c"), outcome: make(chan outcome, 8)}
			log := newCapture()
			w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Initializer, cfg.Logger = in, log.logger() })
			cl, chans := w.rawChannels()
			defer cl.Close()
			ch, reqs, err := (<-chans).Accept()
			require.NoError(t, err)
			go ssh.DiscardRequests(reqs)
			_, _ = ch.Write(answer)
			_ = ch.Close() // The conductor may have closed it already.
			eventually(t, func() bool { return log.contains("router was not initialized") }, "the conductor says so")
			require.Empty(t, in.outcome)
		})
	}
}
