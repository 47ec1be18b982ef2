package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// admission keeps the connections that have not authenticated. A full house
// never refuses the newcomer: the oldest connection of the prefix that holds
// most of them makes place, so that whoever fills the house pays for it.
type admission struct {
	max int

	mu     sync.Mutex
	total  int
	guests map[netip.Prefix][]net.Conn // oldest first
}

// enter adds c. The returned function takes it out and must be called once.
func (a *admission) enter(c net.Conn) (leave func()) {
	p := prefixOf(c.RemoteAddr())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.guests == nil {
		a.guests = make(map[netip.Prefix][]net.Conn)
	}
	a.guests[p] = append(a.guests[p], c)
	a.total++
	if a.total > a.max {
		a.evict()
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.remove(p, c)
	}
}

// evict closes the oldest connection of the heaviest prefix.
func (a *admission) evict() {
	var heaviest netip.Prefix
	for p, g := range a.guests {
		if len(g) > len(a.guests[heaviest]) {
			heaviest = p
		}
	}
	oldest := a.guests[heaviest][0]
	_ = oldest.Close()
	a.remove(heaviest, oldest)
}

// remove is a no-op for a connection that was evicted.
func (a *admission) remove(p netip.Prefix, c net.Conn) {
	g := a.guests[p]
	for i := range g {
		if g[i] != c {
			continue
		}
		copy(g[i:], g[i+1:])
		g[len(g)-1] = nil
		a.total--
		if g = g[:len(g)-1]; len(g) == 0 {
			delete(a.guests, p)
		} else {
			a.guests[p] = g
		}
		return
	}
}

// prefixOf is what one party controls at least: an IPv4 address, or an IPv6 /64.
func prefixOf(a net.Addr) netip.Prefix {
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

// throttle lets something through at most every refusalInterval and counts the
// rest.
type throttle struct {
	mu         sync.Mutex
	last       time.Time
	suppressed int
}

func (t *throttle) due(now time.Time) (suppressed int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && now.Sub(t.last) < refusalInterval {
		t.suppressed++
		return 0, false
	}
	suppressed, t.suppressed, t.last = t.suppressed, 0, now
	return suppressed, true
}
