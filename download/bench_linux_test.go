package download_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/peer"
)

// benchMiB is the image's size: MOORING_BENCH_MIB, or what the benchmark says.
func benchMiB(fallback int) int {
	if n, err := strconv.Atoi(os.Getenv("MOORING_BENCH_MIB")); err == nil && n > 0 {
		return n
	}
	return fallback
}

// client is a program that fetches url to out; sum is the image's SHA-256.
type client struct {
	name string
	run  func(url, sum, out string) []*exec.Cmd
}

func clients(b *testing.B, wrap func(name string, args ...string) *exec.Cmd) map[string]client {
	curl, aria, openssl := peer.Need(b, "curl"), peer.Need(b, "aria2c"), peer.Need(b, "openssl")
	self, err := os.Executable()
	require.NoError(b, err)
	one := func(name string, args ...string) []*exec.Cmd { return []*exec.Cmd{wrap(name, args...)} }
	ariaArgs := func(out string, more ...string) []string {
		return append([]string{"-q", "--no-conf", "--allow-overwrite=true", "--file-allocation=none", "-k1M", "-d", filepath.Dir(out), "-o", filepath.Base(out)}, more...)
	}
	list := []client{
		{"ours", func(url, _, out string) []*exec.Cmd {
			base := url[:strings.LastIndex(url[:strings.Index(url, "/"+version+"/")+1], "/")]
			cmd := wrap(self)
			cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{base, filepath.Join(filepath.Dir(out), "state"), out}, "|"))
			return []*exec.Cmd{cmd}
		}},
		{"curl", func(url, _, out string) []*exec.Cmd { return one(curl, "-s", "-f", "-o", out, url) }},
		{"curl+openssl", func(url, _, out string) []*exec.Cmd {
			return append(one(curl, "-s", "-f", "-o", out, url), wrap(openssl, "dgst", "-sha256", out))
		}},
		{"gocopy", func(url, _, out string) []*exec.Cmd {
			cmd := wrap(self)
			cmd.Env = append(os.Environ(), childEnv+"=copy|"+url+"|"+out)
			return []*exec.Cmd{cmd}
		}},
		{"aria2-x4", func(url, _, out string) []*exec.Cmd { return one(aria, ariaArgs(out, "-x4", "-s4", url)...) }},
		{"aria2-x4+sum", func(url, sum, out string) []*exec.Cmd {
			return one(aria, ariaArgs(out, "-x4", "-s4", "-V", "--checksum=sha-256="+sum, url)...)
		}},
		{"aria2-x16", func(url, _, out string) []*exec.Cmd { return one(aria, ariaArgs(out, "-x16", "-s16", url)...) }},
	}
	out := map[string]client{}
	for _, c := range list {
		out[c.name] = c
	}
	return out
}

type sample struct {
	wall, cpu float64
	rss       int64
}

// measure runs a client once, on a clean disk.
func measure(b *testing.B, c client, url, sum string) sample {
	dir, err := os.MkdirTemp(b.TempDir(), "run")
	require.NoError(b, err)
	defer os.RemoveAll(dir)
	syscall.Sync()
	var s sample
	begin := time.Now()
	for _, cmd := range c.run(url, sum, filepath.Join(dir, "image")) {
		out, err := cmd.CombinedOutput()
		require.NoError(b, err, "%s: %s", c.name, out)
		u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		s.cpu += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		if _, hwm, ok := strings.Cut(string(out), "VmHWM:"); ok {
			// Not Maxrss: that also counts this process before the exec.
			_, err = fmt.Sscan(hwm, &s.rss)
			require.NoError(b, err)
		}
	}
	s.wall = time.Since(begin).Seconds()
	return s
}

func median(list []sample, f func(sample) float64) float64 {
	v := make([]float64, len(list))
	for i, s := range list {
		v[i] = f(s)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// compare runs the clients in turns, in random order, and prints their medians.
func compare(b *testing.B, names []string, all map[string]client, url, sum string, mib int) map[string]sample {
	runs := map[string][]sample{}
	for b.Loop() {
		// In another order each time: what one leaves in the page cache the next
		// one finds.
		for _, i := range rand.Perm(len(names)) {
			n := names[i]
			runs[n] = append(runs[n], measure(b, all[n], url, sum))
		}
	}
	out := map[string]sample{}
	for _, n := range names {
		s := sample{wall: median(runs[n], func(s sample) float64 { return s.wall }), cpu: median(runs[n], func(s sample) float64 { return s.cpu })}
		s.rss = int64(median(runs[n], func(s sample) float64 { return float64(s.rss) }))
		out[n] = s
		fmt.Printf("  %-14s %7.2f s wall %6.2f s CPU %7.1f Mbit/s  %5.1f MiB\n", n, s.wall, s.cpu, float64(mib)*8.388608/s.wall, float64(s.rss)/1024)
	}
	b.ReportMetric(0, "ns/op")
	return out
}

func benchFixture(b *testing.B, mib int) (*fixture, string) {
	f := newFixture(b, mib<<20)
	return f, f.manifest.SHA256.String()
}

// BenchmarkLoopback is 1 GiB from nginx to disk. Run it with -benchtime 5x.
func BenchmarkLoopback(b *testing.B) {
	mib := benchMiB(1024)
	f, sum := benchFixture(b, mib)
	n := startNginx(b, f.dir, "")
	all := clients(b, func(name string, args ...string) *exec.Cmd { return exec.CommandContext(b.Context(), name, args...) })
	got := compare(b, []string{"ours", "curl", "curl+openssl", "gocopy", "aria2-x4", "aria2-x4+sum"}, all, n.url()+"/"+f.manifest.Path(), sum, mib)
	b.ReportMetric(got["ours"].wall/got["curl+openssl"].wall, "wall/curl+openssl")
	b.ReportMetric(got["ours"].cpu/got["curl+openssl"].cpu, "cpu/curl+openssl")
	b.ReportMetric(float64(got["ours"].rss)/1024, "MiB")
}

// BenchmarkLink is a link of 100 Mbit/s and 50 ms, with and without loss, from a
// sender with CUBIC. Run it with -benchtime 3x.
func BenchmarkLink(b *testing.B) {
	for _, tc := range []struct {
		name string
		loss float64
		mib  int
		base string
	}{
		{"no-loss", 0, 64, "curl"},
		{"loss-0.1", 0.001, 64, "aria2-x16"},
		{"loss-1", 0.01, 16, "aria2-x16"},
	} {
		b.Run(tc.name, func(b *testing.B) {
			f, sum := benchFixture(b, tc.mib)
			w := newWAN(b, tc.loss)
			server := &http.Server{Handler: http.FileServer(http.Dir(f.dir)), ReadHeaderTimeout: time.Minute}
			l := w.listen(b, "cubic")
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			all := clients(b, func(name string, args ...string) *exec.Cmd { return w.command(b, name, args...) })
			got := compare(b, []string{"ours", tc.base}, all, "http://"+l.Addr().String()+"/"+f.manifest.Path(), sum, tc.mib)
			b.ReportMetric(got["ours"].wall/got[tc.base].wall, "wall/"+tc.base)
		})
	}
}

// BenchmarkBlackHole drops every packet for 70 s, five seconds into a download.
// Run it with -benchtime 1x.
func BenchmarkBlackHole(b *testing.B) {
	f, sum := benchFixture(b, 128)
	w := newWAN(b, 0)
	server := &http.Server{Handler: http.FileServer(http.Dir(f.dir)), ReadHeaderTimeout: time.Minute}
	l := w.listen(b, "bbr")
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	all := clients(b, func(name string, args ...string) *exec.Cmd { return w.command(b, name, args...) })
	url := "http://" + l.Addr().String() + "/" + f.manifest.Path()
	const hole = 70 * time.Second
	for b.Loop() {
		plain := measure(b, all["ours"], url, sum)
		begin := time.AfterFunc(5*time.Second, func() { w.hole.Store(true) })
		end := time.AfterFunc(5*time.Second+hole, func() { w.hole.Store(false) })
		broken := measure(b, all["ours"], url, sum)
		begin.Stop()
		end.Stop()
		b.ReportMetric(broken.wall-plain.wall-hole.Seconds(), "s-lost")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkChunkDigests compares the two algorithms on this CPU.
func BenchmarkChunkDigests(b *testing.B) {
	data := imageBytes(1<<20, 1)
	for _, a := range []repo.Algorithm{repo.SHA256, repo.SHA512_256} {
		b.Run(string(a), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				h := a.New()
				h.Write(data)
				h.Sum(nil)
			}
		})
	}
}
