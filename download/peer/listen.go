package peer

import (
	"context"
	"fmt"
	"net"
)

// Listen opens a TCP listener whose connections use BBR where the kernel has
// it; where not, the kernel's default stays. congestion names what is in use,
// and is empty where that cannot be told.
func Listen(ctx context.Context, address string) (l net.Listener, congestion string, err error) {
	lc := net.ListenConfig{Control: askForBBR, KeepAlive: 0}
	l, err = lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, "", fmt.Errorf("peer: %w", err)
	}
	return l, congestionOf(l), nil
}
