package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring/sco"
)

const (
	// legacyPoll is how long a change of some router's mode takes to open or
	// close the ports, where asking takes little time; see legacyPause.
	legacyPoll    = time.Second
	legacyMaxPoll = time.Minute
	// legacyLog is the least time between two log entries about what the gate
	// answers, so that strangers can't fill the log.
	legacyLog = 100 * time.Millisecond
	// Bounds on a device that uses the legacy way.
	legacyTimeout     = 5 * time.Second
	legacyConnections = 64
	legacyPerSource   = 8
	legacyMaxLine     = 256
)

// What a device reads. Why it was refused stands in the log only: whoever may
// connect could otherwise ask which asset-ids there are, and in which mode.
const (
	legacyYes = "allowed\n"
	legacyNo  = "refused\n"
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

	mu         sync.Mutex
	guests     map[netip.Prefix]int
	total      int
	logged     time.Time
	suppressed int
}

// legacyPause is the time until the gate is asked again, when asking has taken
// took: reading a large store must not be all that this program does.
func legacyPause(took time.Duration) time.Duration {
	return min(max(legacyPoll, 50*took), legacyMaxPoll)
}

// enter takes a slot for a connection and leave gives it back. What one party
// controls at least, an IPv4 address or an IPv6 /64, can't take them all.
func (g *legacyGate) enter(a net.Addr) (leave func(), ok bool) {
	p := sourceOf(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= legacyConnections || g.guests[p] >= legacyPerSource {
		return nil, false
	}
	if g.guests == nil {
		g.guests = make(map[netip.Prefix]int)
	}
	g.guests[p]++
	g.total++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.total--
		if g.guests[p]--; g.guests[p] == 0 {
			delete(g.guests, p)
		}
	}, true
}

func sourceOf(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip, _ := netip.AddrFromSlice(t.IP)
	ip = ip.Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// logDue says whether something may be logged now, and how much was not.
func (g *legacyGate) logDue(now time.Time) (suppressed int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := now.Sub(g.logged); d >= 0 && d < legacyLog {
		g.suppressed++
		return 0, false
	}
	suppressed, g.suppressed, g.logged = g.suppressed, 0, now
	return suppressed, true
}

func (g *legacyGate) run(ctx context.Context) error {
	var closePorts func()
	defer func() {
		if closePorts != nil {
			closePorts()
		}
	}()
	for {
		began := time.Now()
		open, err := g.registry.LegacyPorts(ctx)
		pause := legacyPause(time.Since(began))
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
		case <-time.After(pause):
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
	for _, address := range g.addresses {
		ln, err := listenOn(ctx, address)
		if err != nil {
			closePorts()
			return nil, err
		}
		g.log.InfoContext(ctx, "listening", "port", "legacy", "address", ln.Addr().String())
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		wg.Go(func() { g.accept(ctx, ln) })
	}
	return closePorts, nil
}

func (g *legacyGate) accept(ctx context.Context, ln net.Listener) {
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
		leave, ok := g.enter(c.RemoteAddr())
		if !ok {
			_ = c.Close()
			continue
		}
		conns.Go(func() {
			defer leave()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			g.answer(ctx, c)
		})
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
	if err == nil && allowed {
		_, _ = io.WriteString(c, legacyYes)
		return
	}
	_, _ = io.WriteString(c, legacyNo)
	suppressed, ok := g.logDue(time.Now())
	if !ok {
		return
	}
	log := g.log.With("remote", c.RemoteAddr().String(), "asset-id", fmt.Sprintf("%.140q", assetID), "suppressed", suppressed)
	if err != nil {
		log.ErrorContext(ctx, "asking the legacy gate failed", "error", err)
		return
	}
	log.WarnContext(ctx, "legacy onboarding refused", "reason", reason)
}
