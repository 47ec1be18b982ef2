// Package admit decides which connections of strangers are served. It bounds
// how many there are at once, in all and from one address prefix, and how fast
// one prefix may open new ones; and when everything is taken it makes room for a
// newcomer at the expense of the prefix that holds most, so that no prefix can
// lock out the others.
package admit

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxPrefixes bounds the prefixes that are remembered.
const maxPrefixes = 1 << 16

// Config has the bounds; all are positive.
type Config struct {
	// Total and PerPrefix bound the connections at one time.
	Total, PerPrefix int
	// Rate is how many connections a second a prefix may open in the long
	// run, Burst how many at once.
	Rate  float64
	Burst int
}

// Gate admits connections. It is safe for concurrent use.
type Gate struct {
	cfg Config

	mu       sync.Mutex
	total    int
	prefixes map[netip.Prefix]*prefix
}

type prefix struct {
	slots  []*Slot // in the order of admission
	tokens float64
	at     time.Time
}

// Slot is one admitted connection.
type Slot struct {
	gate   *Gate
	prefix netip.Prefix
	evict  func()
	kept   bool
	gone   bool
}

// New returns a gate.
func New(cfg Config) *Gate {
	return &Gate{cfg: cfg, prefixes: make(map[netip.Prefix]*prefix)}
}

// Prefix is what addresses are counted by: /24 for IPv4, /64 for IPv6.
func Prefix(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 24
	}
	p, _ := ip.Prefix(bits)
	return p
}

// Admit asks for a slot. When it is refused, why says for which reason. evict is
// called, at most once and from another goroutine, when the slot is taken away
// again.
func (g *Gate) Admit(addr net.Addr, now time.Time, evict func()) (s *Slot, why string) {
	p := Prefix(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.prefixes[p]
	if b == nil {
		if len(g.prefixes) >= maxPrefixes {
			g.sweep(now)
		}
		if len(g.prefixes) >= maxPrefixes {
			return nil, "too many address prefixes"
		}
		b = &prefix{tokens: float64(g.cfg.Burst), at: now}
		g.prefixes[p] = b
	}
	g.refill(b, now)
	if b.tokens < 1 {
		return nil, "too many new connections from this address prefix"
	}
	if len(b.slots) >= g.cfg.PerPrefix {
		return nil, "too many connections from this address prefix"
	}
	if g.total >= g.cfg.Total && !g.makeRoom(len(b.slots)) {
		return nil, "too many connections"
	}
	b.tokens--
	s = &Slot{gate: g, prefix: p, evict: evict}
	b.slots = append(b.slots, s)
	g.total++
	return s, ""
}

func (g *Gate) refill(b *prefix, now time.Time) {
	// A clock that was set back gives nothing, and counts from there: waiting
	// until it is where it was would lock the prefix out.
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.tokens = min(float64(g.cfg.Burst), b.tokens+d*g.cfg.Rate)
	}
	b.at = now
}

// sweep forgets prefixes that are as good as new.
func (g *Gate) sweep(now time.Time) {
	for p, b := range g.prefixes {
		g.refill(b, now)
		if len(b.slots) == 0 && b.tokens >= float64(g.cfg.Burst) {
			delete(g.prefixes, p)
		}
	}
}

// makeRoom takes the oldest slot that may be taken from the prefix that holds
// most, if that is more than have.
func (g *Gate) makeRoom(have int) bool {
	var victim *Slot
	most := have
	for _, b := range g.prefixes {
		if len(b.slots) <= most {
			continue
		}
		if i := slices.IndexFunc(b.slots, func(s *Slot) bool { return !s.kept }); i >= 0 {
			most, victim = len(b.slots), b.slots[i]
		}
	}
	if victim == nil {
		return false
	}
	g.drop(victim)
	go victim.evict()
	return true
}

func (g *Gate) drop(s *Slot) {
	if s.gone {
		return
	}
	s.gone = true
	g.total--
	b := g.prefixes[s.prefix]
	b.slots = slices.DeleteFunc(b.slots, func(o *Slot) bool { return o == s })
}

// Keep protects the slot: its client has shown that it is no stranger.
func (s *Slot) Keep() {
	s.gate.mu.Lock()
	s.kept = true
	s.gate.mu.Unlock()
}

// Release gives the slot back.
func (s *Slot) Release() {
	s.gate.mu.Lock()
	s.gate.drop(s)
	s.gate.mu.Unlock()
}
