package directory

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter limits requests for each address and in total.
type limiter struct {
	each  rate.Limit
	burst int
	total *rate.Limiter

	mu      sync.Mutex
	clients map[netip.Prefix]*visitor
}

type visitor struct {
	limit *rate.Limiter
	seen  time.Time
}

func newLimiter(perMinute int) *limiter {
	each := rate.Limit(float64(perMinute) / 60)
	return &limiter{
		each: each, burst: max(perMinute/4, 1),
		total:   rate.NewLimiter(each*100, max(perMinute*25, 1)),
		clients: make(map[netip.Prefix]*visitor),
	}
}

// allow takes one request. remote is http.Request.RemoteAddr.
func (l *limiter) allow(remote string, now time.Time) bool {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	bits, addr := 32, ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		bits = 64 // one site has all of it
	}
	client, err := addr.Prefix(bits)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.clients[client]
	if v == nil {
		if len(l.clients) >= maxClients {
			l.sweep(now)
		}
		if len(l.clients) >= maxClients {
			return false
		}
		v = &visitor{limit: rate.NewLimiter(l.each, l.burst)}
		l.clients[client] = v
	}
	v.seen = now
	// A client above its own limit must not use up everybody's.
	return v.limit.AllowN(now, 1) && l.total.AllowN(now, 1)
}

func (l *limiter) sweep(now time.Time) {
	for k, v := range l.clients {
		if now.Sub(v.seen) > clientIdle {
			delete(l.clients, k)
		}
	}
}
