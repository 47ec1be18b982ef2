package tftp_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/tftp"
)

// flood sends packet to the client without pause, from another socket or from
// the server's own. The server answers the request with block 1, and the rest
// never comes.
func flood(t *testing.T, packet []byte, stranger bool) netip.AddrPort {
	t.Helper()
	listen := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	server := listen()
	sender := server
	if stranger {
		sender = listen()
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2000)
		n, client, err := server.ReadFromUDPAddrPort(buf)
		if err != nil || n < 2 || binary.BigEndian.Uint16(buf) != 1 {
			return
		}
		_, _ = server.WriteToUDPAddrPort(append([]byte{0, 3, 0, 1}, make([]byte, 512)...), client)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = sender.WriteToUDPAddrPort(packet, client)
			}
		}
	})
	t.Cleanup(func() { close(stop); _ = server.Close(); wg.Wait() })
	return server.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestFloodHoldsNobody(t *testing.T) {
	old := append([]byte{0, 3, 0, 1}, make([]byte, 512)...)
	for name, f := range map[string]struct {
		packet   []byte
		stranger bool
	}{
		"by a stranger":                {[]byte("\x00\x03\x00\x02evil"), true},
		"by a server with its block 1": {old, false},
		"by a server with its OACK":    {text("\x00\x06blksize", "512"), false},
	} {
		for name2, tt := range map[string]struct {
			cfg    tftp.Config
			cancel time.Duration
			want   error
		}{
			"tries":   {cfg: tftp.Config{Resend: 20 * time.Millisecond, Tries: 3}, want: tftp.ErrTimeout},
			"timeout": {cfg: tftp.Config{Resend: time.Hour, Timeout: 300 * time.Millisecond}, want: tftp.ErrTimeout},
			"context": {cfg: tftp.Config{Resend: time.Hour}, cancel: 300 * time.Millisecond, want: context.Canceled},
		} {
			t.Run(name+", "+name2, func(t *testing.T) {
				t.Parallel()
				addr := flood(t, f.packet, f.stranger)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					defer time.AfterFunc(tt.cancel, cancel).Stop()
				}
				c, done := client(t, tt.cfg), make(chan error, 1)
				go func() {
					_, err := c.Get(ctx, addr, "SN1.enc", io.Discard)
					done <- err
				}()
				select {
				case err := <-done:
					require.ErrorIs(t, err, tt.want)
				case <-time.After(30 * time.Second):
					t.Fatal("the transfer does not end")
				}
			})
		}
	}
}
