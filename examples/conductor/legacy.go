package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring/sco"
)

const (
	// legacyPoll is how long a change of some router's mode takes to open or
	// close the ports.
	legacyPoll = time.Second
	// Bounds on a device that uses the legacy way.
	legacyTimeout     = 5 * time.Second
	legacyConnections = 64
	legacyMaxLine     = 256
)

// parseLegacy reads ports and addresses.
func parseLegacy(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		address := part
		if !strings.Contains(part, ":") {
			address = ":" + part
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("%.80q is not a port or an address", part)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("%.80q is not a port or an address", part)
		}
		out = append(out, address)
	}
	return out, nil
}

// legacyGate opens the legacy ports while the registry says that they must be
// open. Behind them there is only the gate's answer.
type legacyGate struct {
	registry  *sco.Registry
	addresses []string
	log       *slog.Logger
}

func (g *legacyGate) run(ctx context.Context) error {
	var closePorts func()
	defer func() {
		if closePorts != nil {
			closePorts()
		}
	}()
	tick := time.NewTicker(legacyPoll)
	defer tick.Stop()
	for {
		open, err := g.registry.LegacyPorts(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			// Closed is the safe side.
			g.log.ErrorContext(ctx, "asking for the legacy gate failed", "error", err)
			open = false
		}
		if open && closePorts == nil {
			if closePorts, err = g.open(ctx); err != nil {
				// Somebody else may have the port. That is no reason to end the
				// other services; it is tried again.
				g.log.ErrorContext(ctx, "legacy ports can't be opened", "error", err)
			}
		} else if !open && closePorts != nil {
			closePorts()
			closePorts = nil
			g.log.InfoContext(ctx, "legacy ports closed: no router's mode is disabled")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *legacyGate) open(ctx context.Context) (closePorts func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	closePorts = func() {
		cancel()
		wg.Wait()
	}
	slots := make(chan struct{}, legacyConnections)
	for _, address := range g.addresses {
		ln, err := listenOn(ctx, address)
		if err != nil {
			closePorts()
			return nil, err
		}
		g.log.InfoContext(ctx, "listening", "port", "legacy", "address", ln.Addr().String())
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		wg.Go(func() { g.accept(ctx, ln, slots) })
	}
	return closePorts, nil
}

func (g *legacyGate) accept(ctx context.Context, ln net.Listener, slots chan struct{}) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
			conns.Go(func() {
				defer func() { <-slots }()
				defer c.Close()
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				g.answer(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

// answer reads an asset-id in one line and writes the gate's answer.
func (g *legacyGate) answer(ctx context.Context, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(legacyTimeout))
	line, err := bufio.NewReader(io.LimitReader(c, legacyMaxLine)).ReadString('\n')
	if err != nil {
		return
	}
	assetID := strings.TrimSpace(line)
	allowed, reason, err := g.registry.LegacyAllowed(ctx, assetID)
	switch {
	case err != nil:
		g.log.ErrorContext(ctx, "asking the legacy gate failed", "error", err)
		_, _ = io.WriteString(c, "refused: the conductor can't tell at the moment\n")
	case allowed:
		_, _ = io.WriteString(c, "allowed\n")
	default:
		g.log.WarnContext(ctx, "legacy onboarding refused", "remote", c.RemoteAddr().String(), "asset-id", fmt.Sprintf("%.140q", assetID), "reason", reason)
		_, _ = io.WriteString(c, "refused: "+reason+"\n")
	}
}
