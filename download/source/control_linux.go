package source

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBuffer bounds what the kernel takes in ahead of a reader that is
// limited, so that the limit holds on the wire and not on average only.
func receiveBuffer(bits int64) func(network, address string, c syscall.RawConn) error {
	if bits <= 0 {
		return nil
	}
	size := int(min(max(bits/8*limitedWindow.Milliseconds()/1000, smallestReceive), largestReceive))
	return func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// Where the kernel refuses, the average still holds.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		})
	}
}
