package tftptest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// LineConfig says what a [Line] does to packets.
type LineConfig struct {
	// Server is where requests go.
	Server netip.AddrPort
	// Delay is added to each packet, in each direction.
	Delay time.Duration
	// Drop, when not nil, says which packets are lost. It is called for one
	// packet at a time.
	Drop func(toServer bool, packet []byte) bool
}

// Line stands between clients and a TFTP server. A client sees one port only,
// however many the server uses.
type Line struct {
	cfg   LineConfig
	conn  *net.UDPConn
	wg    sync.WaitGroup
	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
}

type flow struct {
	conn   *net.UDPConn   // our socket towards the server
	server netip.AddrPort // the port that the server answers from
	up     *queue
	down   *queue
}

// NewLine starts a line that ends with tb.
func NewLine(tb testing.TB, cfg LineConfig) *Line {
	tb.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	l := &Line{cfg: cfg, conn: conn, flows: make(map[netip.AddrPort]*flow)}
	l.wg.Go(l.fromClients)
	tb.Cleanup(func() {
		_ = conn.Close()
		l.mu.Lock()
		for _, f := range l.flows {
			_ = f.conn.Close()
			f.up.close()
			f.down.close()
		}
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

// Addr is where clients send their requests.
func (l *Line) Addr() netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (l *Line) fromClients() {
	buf := make([]byte, 65536)
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		f := l.flows[from]
		if f == nil {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				l.mu.Unlock()
				continue
			}
			_ = conn.SetReadBuffer(4 << 20)
			f = &flow{conn: conn, up: newQueue(), down: newQueue()}
			l.flows[from] = f
			l.wg.Go(func() { l.fromServer(f) })
			l.wg.Go(func() { f.up.run(conn) })
			l.wg.Go(func() { f.down.run(l.conn) })
		}
		to := f.server
		if n >= 2 && binary.BigEndian.Uint16(buf) == 1 {
			to = l.cfg.Server
		}
		dropped := l.cfg.Drop != nil && l.cfg.Drop(true, buf[:n])
		f.down.setTo(from)
		l.mu.Unlock()
		if !dropped && to.IsValid() {
			f.up.put(buf[:n], to, l.cfg.Delay)
		}
	}
}

func (l *Line) fromServer(f *flow) {
	buf := make([]byte, 65536)
	for {
		n, from, err := f.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		// A repeated request makes a server begin a second transfer from
		// another port. The client could not tell it from the first, so it
		// gets no way through.
		if !f.server.IsValid() {
			f.server = from
		}
		if f.server != from {
			l.mu.Unlock()
			continue
		}
		dropped := l.cfg.Drop != nil && l.cfg.Drop(false, buf[:n])
		l.mu.Unlock()
		if !dropped {
			f.down.put(buf[:n], netip.AddrPort{}, l.cfg.Delay)
		}
	}
}

// queue keeps packets for their delay and sends them in order.
type queue struct {
	mu     sync.Mutex
	to     netip.AddrPort
	ch     chan delayed
	closed bool
}

type delayed struct {
	due  time.Time
	data []byte
	to   netip.AddrPort
}

func newQueue() *queue { return &queue{ch: make(chan delayed, 1<<14)} }

func (q *queue) setTo(to netip.AddrPort) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.to = to
}

func (q *queue) put(b []byte, to netip.AddrPort, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !to.IsValid() {
		to = q.to
	}
	if q.closed {
		return
	}
	select {
	case q.ch <- delayed{time.Now().Add(delay), append([]byte(nil), b...), to}:
	default: // a full queue loses packets, as routers do
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}

func (q *queue) run(conn *net.UDPConn) {
	for p := range q.ch {
		if wait := time.Until(p.due); wait > 0 {
			time.Sleep(wait)
		}
		_, _ = conn.WriteToUDPAddrPort(p.data, p.to)
	}
}
