package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// admission keeps the connections that have not authenticated. When the house is
// full, the oldest connection of the prefix that holds most of them makes place
// for a newcomer of another prefix, so that whoever fills the house pays for it.
// A newcomer of that same prefix has to wait until the oldest has had its grace:
// when a thousand honest routers come back at once, work that was begun gets
// finished instead of being thrown away for the next in line.
type admission struct {
	max   int
	grace time.Duration

	mu     sync.Mutex
	total  int
	guests map[netip.Prefix][]guest // oldest first
}

type guest struct {
	conn  net.Conn
	since time.Time
}

// enter adds c, or reports false. The returned function takes it out and must be
// called once.
func (a *admission) enter(c net.Conn, now time.Time) (leave func(), ok bool) {
	p := prefixOf(c.RemoteAddr())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.guests == nil {
		a.guests = make(map[netip.Prefix][]guest)
	}
	if a.total >= a.max {
		heaviest := a.heaviest()
		oldest := a.guests[heaviest][0]
		if (p == heaviest || len(a.guests[p]) >= len(a.guests[heaviest])) && now.Sub(oldest.since) < a.grace {
			return nil, false
		}
		_ = oldest.conn.Close()
		a.remove(heaviest, oldest.conn)
	}
	a.guests[p] = append(a.guests[p], guest{c, now})
	a.total++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.remove(p, c)
	}, true
}

func (a *admission) heaviest() netip.Prefix {
	var heaviest netip.Prefix
	for p, g := range a.guests {
		if len(g) > len(a.guests[heaviest]) {
			heaviest = p
		}
	}
	return heaviest
}

// remove is a no-op for a connection that was evicted.
func (a *admission) remove(p netip.Prefix, c net.Conn) {
	g := a.guests[p]
	for i := range g {
		if g[i].conn != c {
			continue
		}
		copy(g[i:], g[i+1:])
		g[len(g)-1] = guest{}
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
