package download_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mooringlib/mooring/internal/peer"
)

// wan is a slow, long link between two network namespaces: two TUN devices and a
// relay that delays, shapes, queues and drops. It stands in for netem, which
// many kernels lack.
type wan struct {
	server, client string // namespaces
	hole           atomic.Bool
	loss           float64 // from server to client
	wg             sync.WaitGroup
	tuns           [2]*os.File
}

const (
	wanRate  = 100e6 // bits per second
	wanDelay = 25 * time.Millisecond
	wanQueue = 50 * time.Millisecond
	wanAddr  = "10.97.0.1"
)

func newWAN(t testing.TB, loss float64) *wan {
	peer.NeedRoot(t)
	ip := peer.Need(t, "ip")
	w := &wan{loss: loss}
	id := rand.Uint32() % 100000
	w.server, w.client = fmt.Sprintf("mwan%ds", id), fmt.Sprintf("mwan%dc", id)
	run := func(args ...string) {
		out, err := exec.Command(ip, args...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	t.Cleanup(func() {
		for _, f := range w.tuns {
			if f != nil {
				_ = f.Close()
			}
		}
		w.wg.Wait()
		for _, ns := range []string{w.server, w.client} {
			_ = exec.Command(ip, "netns", "del", ns).Run()
		}
	})
	for i, ns := range []string{w.server, w.client} {
		run("netns", "add", ns)
		var err error
		w.inside(t, ns, func() { w.tuns[i], err = openTUN() })
		require.NoError(t, err)
		run("-n", ns, "addr", "add", fmt.Sprintf("10.97.0.%d/24", i+1), "dev", "wan0")
		run("-n", ns, "link", "set", "wan0", "up")
		run("-n", ns, "link", "set", "lo", "up")
	}
	w.wg.Go(func() { w.relay(w.tuns[0], w.tuns[1], w.loss) })
	w.wg.Go(func() { w.relay(w.tuns[1], w.tuns[0], 0) })
	return w
}

// inside runs f in a namespace, on a thread that is thrown away afterwards.
func (w *wan) inside(t testing.TB, ns string, f func()) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

func openTUN() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq("wan0")
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

type packet struct {
	at   time.Time
	data []byte
}

func (w *wan) relay(from, to *os.File, loss float64) {
	queue := make(chan packet, 4096)
	w.wg.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.at))
			_, _ = to.Write(p.data)
		}
	})
	defer close(queue)
	random := rand.New(rand.NewPCG(5, 6))
	var free time.Time
	buf := make([]byte, 2048)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		now := time.Now()
		if w.hole.Load() || loss > 0 && random.Float64() < loss {
			continue
		}
		if free.Before(now) {
			free = now
		}
		if free.Sub(now) > wanQueue {
			continue
		}
		free = free.Add(time.Duration(float64(n) * 8 / wanRate * 1e9))
		select {
		case queue <- packet{free.Add(wanDelay), append([]byte(nil), buf[:n]...)}:
		default:
		}
	}
}

// listen opens a listener at the server's end, with a congestion control of its
// own.
func (w *wan) listen(t testing.TB, congestion string) net.Listener {
	var l net.Listener
	var err error
	w.inside(t, w.server, func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
			})
		}}
		l, err = lc.Listen(t.Context(), "tcp", wanAddr+":0")
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// command runs a program at the client's end.
func (w *wan) command(t testing.TB, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), peer.Need(t, "ip"), append([]string{"netns", "exec", w.client, name}, args...)...)
}
