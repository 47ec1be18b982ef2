package peer

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// askForBBR sets the congestion control of the listening socket, which the
// kernel hands on to accepted ones. A kernel without BBR keeps its own.
func askForBBR(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	})
}

func congestionOf(l net.Listener) string {
	t, ok := l.(*net.TCPListener)
	if !ok {
		return ""
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return ""
	}
	var name string
	_ = raw.Control(func(fd uintptr) {
		name, _ = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return name
}
