package tftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wakeup is how often a wait looks at the context.
const wakeup = 100 * time.Millisecond

// socket receives with a blocking system call. TFTP without windows is one
// packet there and one back, and waiting through the runtime's poller takes
// about as long again as the packet's way on a fast link.
type socket struct {
	conn     *net.UDPConn
	fd       int
	v6       bool
	zone     string
	deadline time.Time
}

// newSocket makes conn blocking. conn must not be used beside the socket, other
// than to close it afterwards.
func newSocket(_ context.Context, conn *net.UDPConn, server netip.AddrPort) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, fd: -1, v6: server.Addr().Is6(), zone: server.Addr().Zone()}
	var inner error
	err = raw.Control(func(fd uintptr) {
		if s.fd, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); inner != nil {
			return
		}
		tv := unix.NsecToTimeval(int64(wakeup))
		if inner = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); inner == nil {
			inner = unix.SetNonblock(s.fd, false)
		}
	})
	if err = errors.Join(err, inner); err != nil {
		s.close()
		return nil, fmt.Errorf("prepare a socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
}

func (s *socket) setDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

// read returns os.ErrDeadlineExceeded when nothing came until the deadline or
// the end of ctx. A packet that waits already is returned all the same.
func (s *socket) read(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	for {
		// The function of golang.org/x/sys asks for the socket's protocol each
		// time, which doubles the system calls.
		n, from, err := syscall.Recvfrom(s.fd, b, 0)
		switch {
		case err == nil:
			return n, s.addrPort(from), nil
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			if ctx.Err() != nil || !time.Now().Before(s.deadline) {
				return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
			}
		default:
			return 0, netip.AddrPort{}, os.NewSyscallError("recvfrom", err)
		}
	}
}

func (s *socket) addrPort(from syscall.Sockaddr) netip.AddrPort {
	switch a := from.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr).Unmap()
		if addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(s.zone)
		}
		return netip.AddrPortFrom(addr, uint16(a.Port))
	default:
		return netip.AddrPort{}
	}
}

func (s *socket) write(b []byte, to netip.AddrPort) error {
	var sa unix.Sockaddr
	if !s.v6 {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		six := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if zone := to.Addr().Zone(); zone != "" {
			iface, err := net.InterfaceByName(zone)
			if err != nil {
				return err
			}
			six.ZoneId = uint32(iface.Index)
		}
		sa = six
	}
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, b, 0, sa))
}
