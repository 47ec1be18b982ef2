package directory

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter limits requests for each address and in total. It remembers the
// addresses that were seen last; when one more comes, the one that was silent
// for the longest time is forgotten, so that nobody can keep others out by
// coming from many addresses. The total limit holds for those.
type limiter struct {
	each  rate.Limit
	burst int
	total *rate.Limiter

	mu      sync.Mutex
	clients map[netip.Prefix]*list.Element
	seen    *list.List // of *visitor, the newest in front
}

type visitor struct {
	client netip.Prefix
	limit  *rate.Limiter
}

func newLimiter(perMinute int) *limiter {
	each := rate.Limit(float64(perMinute) / 60)
	return &limiter{
		each: each, burst: max(perMinute/4, 1),
		total:   rate.NewLimiter(each*100, max(perMinute*25, 1)),
		clients: make(map[netip.Prefix]*list.Element),
		seen:    list.New(),
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
	// A client above its own limit must not use up everybody's.
	return l.visitor(client).limit.AllowN(now, 1) && l.total.AllowN(now, 1)
}

// visitor finds a client or makes it.
func (l *limiter) visitor(client netip.Prefix) *visitor {
	if e := l.clients[client]; e != nil {
		l.seen.MoveToFront(e)
		return e.Value.(*visitor)
	}
	if len(l.clients) >= maxClients {
		oldest := l.seen.Back()
		delete(l.clients, l.seen.Remove(oldest).(*visitor).client)
	}
	v := &visitor{client: client, limit: rate.NewLimiter(l.each, l.burst)}
	l.clients[client] = l.seen.PushFront(v)
	return v
}
