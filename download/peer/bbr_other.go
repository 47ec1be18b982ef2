//go:build !linux

package peer

import (
	"net"
	"syscall"
)

func askForBBR(string, string, syscall.RawConn) error { return nil }

func congestionOf(net.Listener) string { return "" }
