package download_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

// childEnv makes the test binary download, so that there is a process to kill.
const childEnv = "MOORING_DOWNLOAD_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		if err := child(strings.Split(args, "|")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child downloads: base URL, state, out, and a word for checkpoints that come
// often, two connections and small buffers; or it copies: the word copy, URL, out.
func child(args []string) error {
	if args[0] == "copy" {
		return goCopy(args[1], args[2])
	}
	f := &fixture{}
	t := &failer{}
	f.prepare(t)
	web := source.HTTPConfig{URL: args[0]}
	if len(args) > 3 {
		web.Dial = dialWith(smallBuffer)
	}
	fetcher, err := source.NewHTTP(web)
	if err != nil {
		return err
	}
	src := download.Source{Name: "artifactory", Kind: download.KindArtifactory, Fetcher: fetcher}
	cfg := f.config(t, src)
	cfg.StateDir = args[1]
	cfg.Policy, cfg.Lab, cfg.Tuning = nil, false, download.Tuning{}
	if len(args) > 3 {
		cfg.Tuning.Checkpoint, cfg.Tuning.MaxConnections = 50*time.Millisecond, 2
	}
	d, err := download.New(cfg)
	if err != nil {
		return err
	}
	_, err = d.Download(context.Background(), download.Request{Version: version, Out: args[2]})
	if status, rerr := os.ReadFile("/proc/self/status"); rerr == nil {
		_, _ = os.Stdout.Write(status) // how much memory it took
	}
	return err
}

// goCopy is the plainest client: one connection, a large buffer, no check.
func goCopy(url, out string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{resp.Body}, make([]byte, 256<<10))
	return err
}

// pacedServer serves an image slowly and remembers which bytes it sent how often.
type pacedServer struct {
	image []byte
	limit *rate.Limiter
	next  http.Handler

	mu    sync.Mutex
	sent  int64
	twice int64 // bytes sent before the life of the present child
	old   []uint64
	life  []uint64
}

const grain = 4 << 10 // what is remembered of the sent bytes

func mark(set []uint64, i int64) { set[i/64] |= 1 << (i % 64) }

func (s *pacedServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, ".iso") {
		s.next.ServeHTTP(w, r)
		return
	}
	from, to, _ := (&faultServer{f: &fixture{image: s.image}}).span(r)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(s.image)))
	w.Header().Set("Content-Length", fmt.Sprint(to-from))
	w.WriteHeader(http.StatusPartialContent)
	for from < to {
		n := min(to-from, grain)
		if s.limit.WaitN(r.Context(), int(n)) != nil {
			return
		}
		if _, err := w.Write(s.image[from : from+n]); err != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		s.mu.Lock()
		s.sent += n
		for g := from / grain; g <= (from+n-1)/grain; g++ {
			if s.old[g/64]>>(g%64)&1 == 1 {
				s.twice += min(grain, n)
			}
			mark(s.life, g)
		}
		s.mu.Unlock()
		from += n
	}
}

// nextLife returns how many bytes the last child had fetched a second time.
func (s *pacedServer) nextLife() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.life {
		s.old[i] |= s.life[i]
		s.life[i] = 0
	}
	n := s.twice
	s.twice = 0
	return n
}

func TestKilledAtRandomMoments(t *testing.T) {
	const kills = 200
	f := newFixture(t, 40<<20)
	// The chunks of an image of more than 512 MiB.
	f.manifest = f.make(t, f.dir, f.image, repo.MakeConfig{ChunkSize: 1 << 20})
	grains := len(f.image)/grain/64 + 2
	s := &pacedServer{image: f.image, next: http.FileServer(http.Dir(f.dir)), limit: rate.NewLimiter(2<<20, 64<<10), old: make([]uint64, grains), life: make([]uint64, grains)}
	server := serveSmall(t, s, smallBuffer)
	dir := t.TempDir()
	out := filepath.Join(dir, "image.iso")
	self, err := os.Executable()
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	run := func() (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{server.URL, filepath.Join(dir, "state"), out, "often"}, "|"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		return cmd, &stderr
	}
	var most, total int64
	for n := range kills {
		cmd, stderr := run()
		// The moment is counted in bytes that arrived, not in time: so the kill
		// hits the download on a machine of any speed.
		s.mu.Lock()
		target := s.sent + random.Int64N(160<<10)
		s.mu.Unlock()
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		require.Eventually(t, func() bool {
			select {
			case err := <-exited:
				t.Fatalf("the child ended before kill %d: %v: %s", n, err, stderr)
			default:
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.sent > target
		}, 30*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		<-exited
		again := s.nextLife()
		most, total = max(most, again), total+again
		require.LessOrEqual(t, again, f.manifest.Chunks.Size, "kill %d: more than one chunk was fetched twice", n)
	}
	s.limit.SetLimit(rate.Inf)
	cmd, stderr := run()
	require.NoError(t, cmd.Wait(), "%s", stderr)
	f.requireImage(t, out)
	again := s.nextLife()
	require.LessOrEqual(t, again, f.manifest.Chunks.Size)
	t.Logf("%d kills: at most %d bytes fetched twice after one, %d in all; a chunk has %d", kills, most, total+again, f.manifest.Chunks.Size)
}
