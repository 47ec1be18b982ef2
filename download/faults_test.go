package download_test

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
)

// faultServer serves one image and breaks its first answers as it is told. What
// it sends is counted.
type faultServer struct {
	f       *fixture
	breakIt func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool // true: it has answered
	mu      sync.Mutex
	answers int
	sent    atomic.Int64
	next    http.Handler
}

func (s *faultServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, ".iso") {
		s.next.ServeHTTP(w, r)
		return
	}
	s.mu.Lock()
	s.answers++
	n := s.answers
	s.mu.Unlock()
	if !s.breakIt(s, w, r, n) {
		s.plain(w, r)
	}
}

// span parses the one range that a request asks for.
func (s *faultServer) span(r *http.Request) (from, to int64, ranged bool) {
	h, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	a, b, cut := strings.Cut(h, "-")
	if !ok || !cut {
		return 0, int64(len(s.f.image)), false
	}
	from, _ = strconv.ParseInt(a, 10, 64)
	to, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		to = int64(len(s.f.image)) - 1
	}
	return from, to + 1, true
}

// plain answers as it should.
func (s *faultServer) plain(w http.ResponseWriter, r *http.Request) {
	from, to, ranged := s.span(r)
	s.send(w, s.f.image, from, to, ranged, -1)
}

// send answers with the bytes of data and dies after limit of them.
func (s *faultServer) send(w http.ResponseWriter, data []byte, from, to int64, ranged bool, limit int64) {
	w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(len(data))))
	w.Header().Set("Content-Length", fmt.Sprint(to-from))
	if ranged {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	s.write(w, data[from:to], limit)
}

func (s *faultServer) write(w http.ResponseWriter, data []byte, limit int64) {
	for len(data) > 0 {
		n := min(len(data), 64<<10)
		if limit >= 0 {
			n = int(min(int64(n), limit))
			if n == 0 {
				panic(http.ErrAbortHandler)
			}
			limit -= int64(n)
		}
		m, err := w.Write(data[:n])
		s.sent.Add(int64(m))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		data = data[m:]
	}
}

// raw answers with a hand-made head on a connection that it then closes.
func (s *faultServer) raw(w http.ResponseWriter, head string, data []byte) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	_, _ = buf.WriteString(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")
	_ = buf.Flush()
	for len(data) > 0 {
		n, err := c.Write(data[:min(len(data), 64<<10)])
		s.sent.Add(int64(n))
		if err != nil {
			return
		}
		data = data[n:]
	}
}

// faults is the matrix: the first answer for the image is broken as named.
var faults = []struct {
	name  string
	ratio float64 // of the image's size that may be sent
	serve func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool
}{
	{"drop every 4 MiB", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, _ int) bool {
		from, to, ranged := s.span(r)
		s.send(w, s.f.image, from, to, ranged, 4<<20)
		return true
	}},
	// Without ranges the second answer must send everything again: with a cut
	// at 20 of 32 MiB no client can do with less than 52.
	{"no ranges, drop once", 1.1 + 20.0/32, func(s *faultServer, w http.ResponseWriter, _ *http.Request, n int) bool {
		limit := int64(-1)
		if n == 1 {
			limit = 20 << 20
		}
		s.send(w, s.f.image, 0, int64(len(s.f.image)), false, limit)
		return true
	}},
	{"promises ranges, sends everything", 1.1 + 20.0/32, func(s *faultServer, w http.ResponseWriter, _ *http.Request, n int) bool {
		w.Header().Set("Accept-Ranges", "bytes")
		limit := int64(-1)
		if n == 1 {
			limit = 20 << 20
		}
		s.send(w, s.f.image, 0, int64(len(s.f.image)), false, limit)
		return true
	}},
	{"no ETag, drop once", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		from, to, ranged := s.span(r)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(s.f.image)))
		w.Header().Set("Content-Length", fmt.Sprint(to-from))
		if ranged {
			w.WriteHeader(http.StatusPartialContent)
		}
		limit := int64(-1)
		if n == 1 {
			limit = (to - from) / 2
		}
		s.write(w, s.f.image[from:to], limit)
		return true
	}},
	{"content changed, same size", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 1 {
			return false
		}
		from, to, ranged := s.span(r)
		s.send(w, imageBytes(len(s.f.image), 99), from, to, ranged, -1)
		return true
	}},
	{"content changed, new size", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 1 {
			return false
		}
		from, to, ranged := s.span(r)
		s.send(w, imageBytes(len(s.f.image)+1<<20, 99), from, to, ranged, -1)
		return true
	}},
	{"206 starts earlier than asked", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, _ int) bool {
		from, to, ranged := s.span(r)
		s.send(w, s.f.image, max(0, from-40_000), to, ranged, 4<<20)
		return true
	}},
	{"one bit flipped", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		from, to, ranged := s.span(r)
		if n > 1 {
			return false
		}
		data := bytes.Clone(s.f.image)
		data[from+300_000] ^= 4
		s.send(w, data, from, to, ranged, -1)
		return true
	}},
	{"stall", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n != 3 {
			return false
		}
		from, to, _ := s.span(r)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(s.f.image)))
		w.Header().Set("Content-Length", fmt.Sprint(to-from))
		w.WriteHeader(http.StatusPartialContent)
		s.write(w, s.f.image[from:from+(to-from)/2], -1)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}},
	{"trickle of 1 KiB/s", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n != 1 {
			return false
		}
		from, to, _ := s.span(r)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(s.f.image)))
		w.Header().Set("Content-Length", fmt.Sprint(to-from))
		w.WriteHeader(http.StatusPartialContent)
		for r.Context().Err() == nil && from < to {
			s.write(w, s.f.image[from:from+256], -1)
			_ = http.NewResponseController(w).Flush()
			from += 256
			select {
			case <-r.Context().Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
		return true
	}},
	{"three 503 first", 1.1, func(_ *faultServer, w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 3 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}},
	{"HTTP/1.0, truncated, no length", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, _ int) bool {
		from, to, _ := s.span(r)
		end := min(to, from+1<<20+777)
		s.raw(w, fmt.Sprintf("HTTP/1.0 206 Partial Content\nContent-Range: bytes %d-%d/%d", from, to-1, len(s.f.image)), s.f.image[from:end])
		return true
	}},
	// Beyond the matrix.
	{"lengthened bodies", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, _ int) bool {
		from, to, _ := s.span(r)
		s.raw(w, fmt.Sprintf("HTTP/1.0 206 Partial Content\nContent-Range: bytes %d-%d/%d", from, to-1, len(s.f.image)),
			append(bytes.Clone(s.f.image[from:to]), "and something more"...))
		return true
	}},
	{"wrong ranges twice", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 2 {
			return false
		}
		from, to, _ := s.span(r)
		s.send(w, s.f.image, from+7, to, true, -1)
		return true
	}},
	{"several parts", 1.1, func(_ *faultServer, w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 2 {
			return false
		}
		w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
		w.WriteHeader(http.StatusPartialContent)
		return true
	}},
	{"compressed", 1.1, func(_ *faultServer, w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 2 {
			return false
		}
		w.Header().Set("Content-Encoding", "gzip")
		return true
	}},
	{"redirect loop first", 1.1, func(_ *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 12 {
			return false
		}
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	}},
	{"reset at once, then cut every 300 KiB", 1.1, func(s *faultServer, w http.ResponseWriter, r *http.Request, n int) bool {
		if n <= 2 {
			panic(http.ErrAbortHandler)
		}
		from, to, ranged := s.span(r)
		s.send(w, s.f.image, from, to, ranged, 300<<10)
		return true
	}},
}

func TestFaultMatrix(t *testing.T) {
	f := newFixture(t, 32<<20)
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			s := &faultServer{f: f, breakIt: fault.serve, next: http.FileServer(http.Dir(f.dir))}
			server := serveSmall(t, s, smallBuffer)
			cfg := f.config(t, httpSource(t, download.KindArtifactory, server.URL))
			cfg.Policy.MaxRetryDelay = time.Hour // a wait would fail the test by its timeout
			var waited atomic.Bool
			cfg.Progress = func(st download.Status) {
				if st.State == download.StateWaiting {
					waited.Store(true)
				}
			}
			out := filepath.Join(t.TempDir(), "image.iso")
			st, err := newDownloader(t, cfg).Download(t.Context(), download.Request{Version: version, Out: out})
			require.NoError(t, err)
			f.requireImage(t, out)
			require.False(t, waited.Load(), "no fault of the matrix ends an attempt")
			ratio := float64(s.sent.Load()) / float64(len(f.image))
			t.Logf("sent %.3f times the image, wasted %d bytes, %d answers", ratio, st.Wasted, s.answers)
			require.LessOrEqual(t, ratio, fault.ratio)
		})
	}
}
