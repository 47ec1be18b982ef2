package tftp_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/tftp"
	"github.com/mooringlib/mooring/autoinstall/tftp/tftptest"
	"github.com/mooringlib/mooring/internal/peer"
)

// peerServers starts the servers of others on a free loopback port.
var peerServers = map[string]func(tb testing.TB, dir string, port int) *exec.Cmd{
	"tftpd-hpa": func(tb testing.TB, dir string, port int) *exec.Cmd {
		return exec.Command(peer.Need(tb, "in.tftpd"), "-L", "-u", "root", "-a", fmt.Sprintf("127.0.0.1:%d", port), "-s", dir)
	},
	"atftpd": func(tb testing.TB, dir string, port int) *exec.Cmd {
		return exec.Command(peer.Need(tb, "atftpd"), "--daemon", "--no-fork", "--user", "root", "--group", "root", "--bind-address", "127.0.0.1",
			"--port", strconv.Itoa(port), "--logfile", "/dev/null", "--maxthread", "100", dir)
	},
}

// startPeer starts a server that ends with tb and waits until it answers.
func startPeer(tb testing.TB, name, dir string) netip.AddrPort {
	tb.Helper()
	peer.NeedRoot(tb)
	require.NoError(tb, os.WriteFile(filepath.Join(dir, "probe"), []byte("ready"), 0o644))
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(tb, os.Chmod(d, 0o755))
	}
	c := client(tb, tftp.Config{Resend: 100 * time.Millisecond, Tries: 3})
	for range 20 {
		probe, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(tb, err)
		addr := probe.LocalAddr().(*net.UDPAddr).AddrPort()
		require.NoError(tb, probe.Close())
		cmd := peerServers[name](tb, dir, int(addr.Port()))
		require.NoError(tb, cmd.Start())
		stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		for range 20 {
			if _, err := c.Get(tb.Context(), addr, "probe", io.Discard); err == nil {
				tb.Cleanup(stop)
				return addr
			}
		}
		stop() // somebody else took the port
	}
	tb.Fatalf("%s does not answer", name)
	return netip.AddrPort{}
}

func TestServersOfOthers(t *testing.T) {
	for _, name := range []string{"tftpd-hpa", "atftpd"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			addr := startPeer(t, name, dir)
			for _, size := range []int{0, 1, 511, 512, 513, 1467, 1468, 1469, 64 * 1468, 64*1468 + 1, 3 << 20} {
				want := content(size)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), want, 0o644))
				for _, cfg := range []tftp.Config{{}, {BlockSize: 512, WindowSize: 1}, {BlockSize: 8192}, {WindowSize: 3}} {
					var got bytes.Buffer
					res, err := client(t, cfg).Get(t.Context(), addr, "f", &got)
					require.NoError(t, err, "size %d, %+v", size, cfg)
					require.True(t, bytes.Equal(want, got.Bytes()), "size %d, %+v", size, cfg)
					require.EqualValues(t, size, res.Announced, "both servers have tsize")
				}
			}
			_, err := client(t, tftp.Config{}).Get(t.Context(), addr, "missing", io.Discard)
			require.ErrorIs(t, err, tftp.ErrNotFound)
			_, err = client(t, tftp.Config{MaxSize: 1000}).Get(t.Context(), addr, "f", io.Discard)
			require.ErrorIs(t, err, tftp.ErrTooLarge)
		})
	}
}

func TestServersOfOthersOverALossyLine(t *testing.T) {
	for _, name := range []string{"tftpd-hpa", "atftpd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			addr := startPeer(t, name, dir)
			want := content(150_000)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), want, 0o644))
			n := 0
			line := tftptest.NewLine(t, tftptest.LineConfig{Server: addr, Drop: func(bool, []byte) bool {
				n++
				return n%53 == 0
			}})
			var got bytes.Buffer
			_, err := client(t, tftp.Config{WindowSize: 16, Tries: 20}).Get(t.Context(), line.Addr(), "f", &got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got.Bytes()))
		})
	}
}

// clients are ways to fetch a file; each returns how long it took.
var clients = []struct {
	name string
	run  func(b *testing.B, addr netip.AddrPort, file string) time.Duration
}{
	{"ours", func(b *testing.B, addr netip.AddrPort, file string) time.Duration {
		out, err := os.Create(filepath.Join(b.TempDir(), "out"))
		require.NoError(b, err)
		defer out.Close()
		c := client(b, tftp.Config{MaxSize: 1 << 30})
		start := time.Now()
		w := bufio.NewWriterSize(out, 64<<10)
		_, err = c.Get(b.Context(), addr, file, w)
		require.NoError(b, err)
		require.NoError(b, w.Flush())
		return time.Since(start)
	}},
	{"ours-lockstep", func(b *testing.B, addr netip.AddrPort, file string) time.Duration {
		c := client(b, tftp.Config{MaxSize: 1 << 30, BlockSize: 512, WindowSize: 1})
		start := time.Now()
		_, err := c.Get(b.Context(), addr, file, io.Discard)
		require.NoError(b, err)
		return time.Since(start)
	}},
	{"tftp-hpa", func(b *testing.B, addr netip.AddrPort, file string) time.Duration {
		return command(b, file, "tftp", "-m", "binary", addr.Addr().String(), strconv.Itoa(int(addr.Port())), "-c", "get", file, "OUT")
	}},
	{"atftp", func(b *testing.B, addr netip.AddrPort, file string) time.Duration {
		return command(b, file, "atftp", "-g", "-r", file, "-l", "OUT", addr.Addr().String(), strconv.Itoa(int(addr.Port())))
	}},
	{"atftp-same-options", func(b *testing.B, addr netip.AddrPort, file string) time.Duration {
		return command(b, file, "atftp", "--option", "blksize 1468", "--option", "windowsize 64", "-g", "-r", file, "-l", "OUT", addr.Addr().String(), strconv.Itoa(int(addr.Port())))
	}},
}

// command runs a client of others. The start of the process is a part of the
// time, about 2 ms.
func command(b *testing.B, _, program string, args ...string) time.Duration {
	b.Helper()
	out := filepath.Join(b.TempDir(), "out")
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "OUT", out)
	}
	cmd := exec.Command(peer.Need(b, program), args...)
	start := time.Now()
	text, err := cmd.CombinedOutput()
	took := time.Since(start)
	require.NoError(b, err, "%s", text)
	info, err := os.Stat(out)
	require.NoError(b, err, "%s", text)
	require.Positive(b, info.Size(), "%s", text)
	return took
}

// BenchmarkBesidePeers fetches one file with each client in turn, from the same
// server, and reports medians in ms and how many times as long as ours the
// others take.
func BenchmarkBesidePeers(b *testing.B) {
	for _, server := range []string{"tftpd-hpa", "atftpd"} {
		for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
			size := 16 << 20
			if delay > 0 {
				size = 48 << 10
			}
			b.Run(fmt.Sprintf("%s/roundtrip=%v", server, 2*delay), func(b *testing.B) {
				dir := b.TempDir()
				addr := startPeer(b, server, dir)
				require.NoError(b, os.WriteFile(filepath.Join(dir, "f"), content(size), 0o644))
				if delay > 0 {
					addr = tftptest.NewLine(b, tftptest.LineConfig{Server: addr, Delay: delay}).Addr()
				}
				times := make([][]time.Duration, len(clients))
				for b.Loop() {
					for i, c := range clients {
						times[i] = append(times[i], c.run(b, addr, "f"))
					}
				}
				b.ReportMetric(0, "ns/op")
				median := func(i int) float64 {
					slices.Sort(times[i])
					return times[i][len(times[i])/2].Seconds()
				}
				for i, c := range clients {
					b.ReportMetric(median(i)*1000, c.name+"-ms")
					if i > 0 {
						b.ReportMetric(median(i)/median(0), "x-"+c.name)
					}
				}
			})
		}
	}
}
