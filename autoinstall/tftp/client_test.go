package tftp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/tftp"
	"github.com/mooringlib/mooring/autoinstall/tftp/tftptest"
)

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func serve(t testing.TB, data []byte, cfg tftptest.Config) netip.AddrPort {
	cfg.File = func(name string) ([]byte, bool) { return data, name == "SN1.enc" }
	return tftptest.NewServer(t, cfg).Addr()
}

func client(t testing.TB, cfg tftp.Config) *tftp.Client {
	t.Helper()
	c, err := tftp.New(cfg)
	require.NoError(t, err)
	return c
}

func TestReadsFilesOfEverySizeAroundBlocksAndWindows(t *testing.T) {
	servers := map[string]tftptest.Config{
		"RFC 1350 only":      {NoSize: true},
		"blksize":            {MaxBlock: 1468},
		"smaller blksize":    {MaxBlock: 100},
		"blksize and window": {MaxBlock: 1468, MaxWindow: 64},
		"window of 3":        {MaxBlock: 256, MaxWindow: 3},
	}
	for name, cfg := range servers {
		t.Run(name, func(t *testing.T) {
			c := client(t, tftp.Config{})
			for _, size := range []int{0, 1, 99, 100, 101, 256, 511, 512, 513, 767, 768, 769, 1024, 1468, 2936, 5000, 94 * 1024} {
				want := content(size)
				var got bytes.Buffer
				res, err := c.Get(t.Context(), serve(t, want, cfg), "SN1.enc", &got)
				require.NoError(t, err, "size %d", size)
				require.True(t, bytes.Equal(want, got.Bytes()), "size %d", size)
				require.EqualValues(t, size, res.Size)
				if cfg.NoSize {
					require.EqualValues(t, -1, res.Announced)
				} else {
					require.EqualValues(t, size, res.Announced)
				}
				require.Equal(t, max(cfg.MaxWindow, 1), res.WindowSize)
			}
		})
	}
}

func TestBlockNumbersRollOver(t *testing.T) {
	for name, cfg := range map[string]tftptest.Config{
		"to 0":               {MaxBlock: 8},
		"to 0 with a window": {MaxBlock: 8, MaxWindow: 64},
		"to 1":               {MaxBlock: 8, Rollover: 1},
	} {
		t.Run(name, func(t *testing.T) {
			want := content(65540*8 + 3)
			var got bytes.Buffer
			res, err := client(t, tftp.Config{BlockSize: 8}).Get(t.Context(), serve(t, want, cfg), "SN1.enc", &got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got.Bytes()))
			require.EqualValues(t, len(want), res.Size)
		})
	}
}

func TestLossOfAnyPacketIsRepaired(t *testing.T) {
	// One packet is lost in each run: the n-th of one direction.
	want := content(40 * 512)
	for _, window := range []int{1, 8} {
		addr := serve(t, want, tftptest.Config{MaxBlock: 512, MaxWindow: window, Resend: 50 * time.Millisecond})
		var wg sync.WaitGroup
		atOnce := make(chan struct{}, 8)
		for n := range 44 {
			for _, up := range []bool{true, false} {
				atOnce <- struct{}{}
				wg.Go(func() {
					defer func() { <-atOnce }()
					count := 0
					line := tftptest.NewLine(t, tftptest.LineConfig{Server: addr, Drop: func(toServer bool, _ []byte) bool {
						if toServer != up {
							return false
						}
						count++
						return count == n+1
					}})
					var got bytes.Buffer
					_, err := client(t, tftp.Config{Resend: 50 * time.Millisecond, Tries: 20}).Get(t.Context(), line.Addr(), "SN1.enc", &got)
					if err != nil || !bytes.Equal(want, got.Bytes()) {
						t.Errorf("window %d, packet %d lost, towards server %v: %v", window, n+1, up, err)
					}
				})
			}
		}
		wg.Wait()
	}
}

func TestHeavyLossEndsWithTheWholeFile(t *testing.T) {
	want := content(200 * 512)
	addr := serve(t, want, tftptest.Config{MaxBlock: 512, MaxWindow: 16, Resend: 20 * time.Millisecond})
	count := 0
	line := tftptest.NewLine(t, tftptest.LineConfig{Server: addr, Drop: func(bool, []byte) bool {
		count++
		return count%7 == 0 || count%11 == 0
	}})
	var got bytes.Buffer
	res, err := client(t, tftp.Config{Resend: 50 * time.Millisecond, Tries: 20}).Get(t.Context(), line.Addr(), "SN1.enc", &got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got.Bytes()))
	require.Positive(t, res.Resent)
}

func TestMissingFile(t *testing.T) {
	_, err := client(t, tftp.Config{}).Get(t.Context(), serve(t, nil, tftptest.Config{}), "other", io.Discard)
	require.ErrorIs(t, err, tftp.ErrNotFound)
	var answer *tftp.ServerError
	require.ErrorAs(t, err, &answer)
	require.Equal(t, "no such file", answer.Message)
}

func TestFileLargerThanTheLimit(t *testing.T) {
	for name, cfg := range map[string]tftptest.Config{"announced": {}, "not announced": {NoSize: true}} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			_, err := client(t, tftp.Config{MaxSize: 1000}).Get(t.Context(), serve(t, content(1001), cfg), "SN1.enc", &got)
			require.ErrorIs(t, err, tftp.ErrTooLarge)
			require.LessOrEqual(t, got.Len(), 1000)

			got.Reset()
			_, err = client(t, tftp.Config{MaxSize: 1000}).Get(t.Context(), serve(t, content(1000), cfg), "SN1.enc", &got)
			require.NoError(t, err)
		})
	}
}

// script is a server that answers each packet of the client with what the test
// says. It answers from one port.
func script(t *testing.T, answer func(packet []byte, reply func(...byte))) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			answer(buf[:n], func(b ...byte) { _, _ = conn.WriteToUDPAddrPort(b, from) })
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func text(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = append(append(b, p...), 0)
	}
	return b
}

func TestHostileAnswersEndTheTransfer(t *testing.T) {
	oack := func(parts ...string) []byte { return append([]byte{0, 6}, text(parts...)...) }
	tests := map[string]struct {
		answer []byte
		want   error
	}{
		"blksize above what was asked":    {oack("blksize", "1469"), tftp.ErrProtocol},
		"blksize below the RFC's minimum": {oack("blksize", "7"), tftp.ErrProtocol},
		"blksize negative":                {oack("blksize", "-8"), tftp.ErrProtocol},
		"windowsize 0":                    {oack("windowsize", "0"), tftp.ErrProtocol},
		"windowsize above":                {oack("windowsize", "65"), tftp.ErrProtocol},
		"another timeout":                 {oack("timeout", "9"), tftp.ErrProtocol},
		"option not asked for":            {oack("multicast", "1"), tftp.ErrProtocol},
		"option twice":                    {oack("blksize", "512", "BLKSIZE", "1024"), tftp.ErrProtocol},
		"option without value":            {oack("blksize"), tftp.ErrProtocol},
		"value without end":               {append([]byte{0, 6}, "blksize\x00512"...), tftp.ErrProtocol},
		"huge size":                       {oack("tsize", "99999999999"), tftp.ErrTooLarge},
		"size that is no number":          {oack("tsize", "99999999999999999999"), tftp.ErrProtocol},
		"value with space":                {oack("blksize", " 512"), tftp.ErrProtocol},
		"one octet":                       {[]byte{3}, tftp.ErrProtocol},
		"request":                         {[]byte{0, 1, 'a', 0}, tftp.ErrProtocol},
		"acknowledgement":                 {[]byte{0, 4, 0, 0}, tftp.ErrProtocol},
		"opcode 9":                        {[]byte{0, 9, 0, 0}, tftp.ErrProtocol},
		"DATA of 3 octets":                {[]byte{0, 3, 0}, tftp.ErrProtocol},
		"ERROR of 3 octets":               {[]byte{0, 5, 0}, tftp.ErrProtocol},
		"block of 513 without an OACK":    {append([]byte{0, 3, 0, 1}, make([]byte, 513)...), tftp.ErrProtocol},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			told := make(chan uint16, 4)
			addr := script(t, func(p []byte, reply func(...byte)) {
				switch binary.BigEndian.Uint16(p) {
				case 1:
					reply(tt.answer...)
				case 5:
					told <- binary.BigEndian.Uint16(p[2:])
				}
			})
			var got bytes.Buffer
			_, err := client(t, tftp.Config{}).Get(t.Context(), addr, "SN1.enc", &got)
			require.ErrorIs(t, err, tt.want)
			require.Zero(t, got.Len())
			select {
			case <-told:
			case <-time.After(10 * time.Second):
				t.Fatal("the server was not told")
			}
		})
	}
}

func TestSmallBlocksAreNotTakenForTheEnd(t *testing.T) {
	// A legal OACK with a blksize below 512: blocks of that size are full.
	want := content(5000)
	var got bytes.Buffer
	res, err := client(t, tftp.Config{}).Get(t.Context(), serve(t, want, tftptest.Config{MaxBlock: 256}), "SN1.enc", &got)
	require.NoError(t, err)
	require.Equal(t, 256, res.BlockSize)
	require.Equal(t, want, got.Bytes())
}

func TestSizeOtherThanAnnounced(t *testing.T) {
	for name, announced := range map[string]string{"fewer octets": "6", "more octets": "4"} {
		t.Run(name, func(t *testing.T) {
			addr := script(t, func(p []byte, reply func(...byte)) {
				switch binary.BigEndian.Uint16(p) {
				case 1:
					reply(append([]byte{0, 6}, text("tsize", announced)...)...)
				case 4:
					reply(append([]byte{0, 3, 0, 1}, "hello"...)...)
				}
			})
			_, err := client(t, tftp.Config{}).Get(t.Context(), addr, "SN1.enc", io.Discard)
			require.ErrorIs(t, err, tftp.ErrSize)
		})
	}
}

func TestServerWithoutOptionsIsAskedPlainly(t *testing.T) {
	addr := script(t, func(p []byte, reply func(...byte)) {
		if binary.BigEndian.Uint16(p) != 1 {
			return
		}
		if bytes.Contains(p, []byte("blksize")) {
			reply(append([]byte{0, 5, 0, 8}, text("no options here")...)...)
			return
		}
		reply(append([]byte{0, 3, 0, 1}, "plain"...)...)
	})
	var got bytes.Buffer
	_, err := client(t, tftp.Config{}).Get(t.Context(), addr, "SN1.enc", &got)
	require.NoError(t, err)
	require.Equal(t, "plain", got.String())
}

func TestStrangersChangeNothing(t *testing.T) {
	// A second socket injects data, an end, and an error while the transfer
	// runs. Each packet from it gets ERROR 5.
	stranger, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer stranger.Close()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer conn.Close()
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			buf := make([]byte, 2000)
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return err
			}
			block := append([]byte{0, 3, 0, 1}, bytes.Repeat([]byte{'a'}, 512)...)
			_, _ = conn.WriteToUDPAddrPort(block, from)
			if _, _, err := conn.ReadFromUDPAddrPort(buf); err != nil {
				return err
			}
			for _, p := range []string{"\x00\x03\x00\x02evil", "\x00\x05\x00\x01gone\x00", "\x00\x06blksize\x008\x00", "x"} {
				_, _ = stranger.WriteToUDPAddrPort([]byte(p), from)
				n, _, err := stranger.ReadFromUDPAddrPort(buf)
				if err != nil {
					return err
				}
				if n < 4 || buf[1] != 5 || buf[3] != 5 {
					return errors.New("the stranger did not get ERROR 5")
				}
			}
			_, _ = conn.WriteToUDPAddrPort(append([]byte{0, 3, 0, 2}, "end"...), from)
			return nil
		}()
	}()
	var got bytes.Buffer
	res, err := client(t, tftp.Config{}).Get(t.Context(), conn.LocalAddr().(*net.UDPAddr).AddrPort(), "SN1.enc", &got)
	require.NoError(t, err)
	require.NoError(t, <-served)
	require.Equal(t, string(bytes.Repeat([]byte{'a'}, 512))+"end", got.String())
	require.Equal(t, 4, res.Strangers)
}

func TestSilence(t *testing.T) {
	t.Run("from the start", func(t *testing.T) {
		requests := 0
		addr := script(t, func([]byte, func(...byte)) { requests++ })
		_, err := client(t, tftp.Config{Resend: 10 * time.Millisecond, Tries: 3}).Get(t.Context(), addr, "SN1.enc", io.Discard)
		require.ErrorIs(t, err, tftp.ErrTimeout)
		require.Contains(t, err.Error(), "3 requests")
	})
	t.Run("in the middle", func(t *testing.T) {
		addr := script(t, func(p []byte, reply func(...byte)) {
			if binary.BigEndian.Uint16(p) == 1 {
				reply(append([]byte{0, 3, 0, 1}, make([]byte, 512)...)...)
			}
		})
		_, err := client(t, tftp.Config{Resend: 10 * time.Millisecond, Tries: 3}).Get(t.Context(), addr, "SN1.enc", io.Discard)
		require.ErrorIs(t, err, tftp.ErrTimeout)
		require.Contains(t, err.Error(), "silence after 512 octets")
	})
	t.Run("a server that repeats itself for ever", func(t *testing.T) {
		// Repetitions are no progress.
		addr := script(t, func(p []byte, reply func(...byte)) {
			reply(append([]byte{0, 3, 0, 1}, make([]byte, 512)...)...)
		})
		_, err := client(t, tftp.Config{Resend: 10 * time.Millisecond, Tries: 3}).Get(t.Context(), addr, "SN1.enc", io.Discard)
		require.ErrorIs(t, err, tftp.ErrTimeout)
	})
	t.Run("overall timeout", func(t *testing.T) {
		addr := script(t, func(p []byte, reply func(...byte)) {})
		_, err := client(t, tftp.Config{Timeout: 20 * time.Millisecond}).Get(t.Context(), addr, "SN1.enc", io.Discard)
		require.ErrorIs(t, err, tftp.ErrTimeout)
		require.Contains(t, err.Error(), "within 20ms")
	})
}

func TestContextEndsATransfer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := script(t, func([]byte, func(...byte)) { cancel() })
	_, err := client(t, tftp.Config{Resend: time.Hour}).Get(ctx, addr, "SN1.enc", io.Discard)
	require.ErrorIs(t, err, context.Canceled)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestWriterErrorEndsATransfer(t *testing.T) {
	_, err := client(t, tftp.Config{}).Get(t.Context(), serve(t, content(3000), tftptest.Config{}), "SN1.enc", failingWriter{})
	require.ErrorIs(t, err, io.ErrShortWrite)
}

func TestBadArguments(t *testing.T) {
	c := client(t, tftp.Config{})
	good := netip.MustParseAddrPort("127.0.0.1:1")
	for name, file := range map[string]string{"empty": "", "zero octet": "a\x00b", "line end": "a\n", "long": string(make([]byte, 256))} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Get(t.Context(), good, file, io.Discard)
			require.ErrorIs(t, err, tftp.ErrProtocol)
		})
	}
	for _, addr := range []string{"0.0.0.0:69", "224.0.0.1:69", "[::]:69", "[::ffff:0.0.0.0]:69"} {
		_, err := c.Get(t.Context(), netip.MustParseAddrPort(addr), "f", io.Discard)
		require.ErrorContains(t, err, "not the address of a server")
	}
	_, err := tftp.New(tftp.Config{BlockSize: 7, WindowSize: 2000, Tries: -1})
	require.ErrorContains(t, err, "BlockSize is 7")
	require.ErrorContains(t, err, "WindowSize is 2000")
	require.ErrorContains(t, err, "can't be negative")
}

func TestManyTransfersAtOnce(t *testing.T) {
	want := content(100_000)
	addr := serve(t, want, tftptest.Config{MaxBlock: 1468, MaxWindow: 16})
	c := client(t, tftp.Config{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var got bytes.Buffer
			if _, err := c.Get(t.Context(), addr, "SN1.enc", &got); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("transfer: %v", err)
			}
		})
	}
	wg.Wait()
}
