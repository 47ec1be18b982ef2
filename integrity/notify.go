package integrity

import (
	"fmt"
	"net"
	"strings"
)

// SystemdNotify returns a function for Config.Notify that sends states to the
// service manager behind socket, which is the value of NOTIFY_SOCKET. An empty
// socket means that there is none, and nothing is sent.
func SystemdNotify(socket string) func(state string) error {
	return func(state string) error {
		if socket == "" {
			return nil
		}
		// A leading @ stands for the abstract name space.
		name := socket
		if rest, ok := strings.CutPrefix(socket, "@"); ok {
			name = "\x00" + rest
		}
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			return fmt.Errorf("integrity: notify: %w", err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(state)); err != nil {
			return fmt.Errorf("integrity: notify: %w", err)
		}
		return nil
	}
}
