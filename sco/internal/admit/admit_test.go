package admit

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func addr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func TestPrefix(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.77:1":             "192.0.2.0/24",
		"[::ffff:192.0.2.77]:1":    "192.0.2.0/24",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
	} {
		require.Equal(t, want, Prefix(addr(a)).String(), a)
	}
	require.Equal(t, netip.Prefix{}, Prefix(&net.UnixAddr{Name: "x"}))
}

func TestPerPrefixAndRelease(t *testing.T) {
	g := New(Config{Total: 100, PerPrefix: 2, Rate: 1, Burst: 100})
	now := time.Unix(0, 0)
	a, _ := g.Admit(addr("192.0.2.1:1"), now, nil)
	require.NotNil(t, a)
	b, _ := g.Admit(addr("192.0.2.200:1"), now, nil)
	require.NotNil(t, b)
	c, why := g.Admit(addr("192.0.2.9:1"), now, nil)
	require.Nil(t, c)
	require.Contains(t, why, "from this address prefix")
	other, _ := g.Admit(addr("198.51.100.1:1"), now, nil)
	require.NotNil(t, other)
	a.Release()
	a.Release()
	c, _ = g.Admit(addr("192.0.2.9:1"), now, nil)
	require.NotNil(t, c)
	require.Equal(t, 3, g.total)
}

func TestRate(t *testing.T) {
	g := New(Config{Total: 1000, PerPrefix: 1000, Rate: 2, Burst: 3})
	now := time.Unix(0, 0)
	admitted := func(at time.Time) (n int) {
		for range 10 {
			if s, _ := g.Admit(addr("192.0.2.1:1"), at, nil); s != nil {
				s.Release()
				n++
			}
		}
		return n
	}
	require.Equal(t, 3, admitted(now))
	require.Equal(t, 0, admitted(now))
	require.Equal(t, 2, admitted(now.Add(time.Second)))
	require.Equal(t, 3, admitted(now.Add(time.Hour)))
	require.Equal(t, 0, admitted(now), "a clock that goes back gives nothing")
	require.Equal(t, 2, admitted(now.Add(time.Second)), "and counts from there")
}

func TestFullGateTakesFromTheGreedy(t *testing.T) {
	g := New(Config{Total: 10, PerPrefix: 8, Rate: 100, Burst: 100})
	now := time.Unix(0, 0)
	evicted := make(chan int, 20)
	var slots []*Slot
	for i := range 8 {
		s, _ := g.Admit(addr("192.0.2.1:1"), now, func() { evicted <- i })
		require.NotNil(t, s)
		slots = append(slots, s)
	}
	slots[0].Keep()
	for i := range 2 {
		s, _ := g.Admit(addr("198.51.100.1:1"), now, func() { evicted <- 100 + i })
		require.NotNil(t, s)
	}
	// Full. A newcomer takes the oldest of the greedy prefix that has not
	// proved anything.
	s, _ := g.Admit(addr("203.0.113.1:1"), now, func() { evicted <- 200 })
	require.NotNil(t, s)
	require.Equal(t, 1, <-evicted)
	// The greedy prefix itself gets nothing more.
	s, why := g.Admit(addr("192.0.2.3:1"), now, nil)
	require.Nil(t, s)
	require.Equal(t, "too many connections", why)
	// Releasing what was evicted is harmless.
	slots[1].Release()
	require.Equal(t, 10, g.total)
	for _, s := range slots {
		s.Keep()
	}
	s, _ = g.Admit(addr("203.0.113.200:1"), now, nil)
	require.NotNil(t, s, "the prefix with two loses one")
}

func TestPrefixesAreForgotten(t *testing.T) {
	g := New(Config{Total: 10, PerPrefix: 10, Rate: 1, Burst: 1})
	now := time.Unix(0, 0)
	for i := range maxPrefixes {
		s, _ := g.Admit(addr(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>8, i&0xff)), now, nil)
		require.NotNil(t, s)
		s.Release()
	}
	s, why := g.Admit(addr("192.0.2.1:1"), now, nil)
	require.Nil(t, s)
	require.Contains(t, why, "prefixes")
	s, _ = g.Admit(addr("192.0.2.1:1"), now.Add(2*time.Second), nil)
	require.NotNil(t, s)
	require.Len(t, g.prefixes, 1)
}
