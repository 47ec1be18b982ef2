//go:build !linux

package tftp

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// socket is the connection with an end of its reads when a context ends.
type socket struct {
	conn *net.UDPConn
	stop func() bool
}

func newSocket(ctx context.Context, conn *net.UDPConn, _ netip.AddrPort) (*socket, error) {
	return &socket{conn, context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })}, nil
}

func (s *socket) close() { s.stop() }

func (s *socket) setDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// read returns os.ErrDeadlineExceeded at the deadline and when ctx ends.
func (s *socket) read(_ context.Context, b []byte) (int, netip.AddrPort, error) {
	return s.conn.ReadFromUDPAddrPort(b)
}

func (s *socket) write(b []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to)
	return err
}
