package peer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
)

// Config says what is served.
type Config struct {
	// Dir is a folder with images that download fetched, its state directory,
	// or a repository.
	Dir string
	// MaxBandwidth limits all answers together, in bits per second; 0 is
	// unlimited.
	MaxBandwidth int64
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Handler serves images. It is safe for concurrent use.
type Handler struct {
	cfg     Config
	limiter *rate.Limiter

	mu      sync.Mutex
	scanned time.Time
	held    map[string]*partial.Held // by path of the image
	order   []string
	cache   map[string]cached
}

// New returns a handler, or an error that names what is wrong with cfg.
func New(cfg Config) (*Handler, error) {
	if cfg.Dir == "" {
		return nil, errors.New("peer: no directory is given")
	}
	if cfg.MaxBandwidth < 0 || cfg.MaxBandwidth > maxBandwidth {
		return nil, fmt.Errorf("peer: max-bandwidth %d: want unlimited, or 1 to %d bits per second", cfg.MaxBandwidth, int64(maxBandwidth))
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{cfg: cfg, cache: map[string]cached{}}
	if cfg.MaxBandwidth > 0 {
		h.limiter = rate.NewLimiter(rate.Limit(float64(cfg.MaxBandwidth)/8), limitedPiece)
	}
	return h, nil
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == repo.IndexPath || path == "" {
		h.index(w, r)
		return
	}
	image, isList := strings.CutSuffix(path, ".chunks")
	held := h.lookup(path)
	if held == nil && isList {
		if held = h.lookup(image); held != nil {
			h.send(w, r, answer{held: held, size: int64(len(held.List)), open: func() (io.ReadSeekCloser, error) {
				return nopCloser{strings.NewReader(string(held.List))}, nil
			}})
			return
		}
	}
	if held == nil {
		http.NotFound(w, r)
		return
	}
	h.send(w, r, answer{held: held, size: held.Manifest.Size, image: true, open: func() (io.ReadSeekCloser, error) { return os.Open(held.File) }})
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (h *Handler) index(w http.ResponseWriter, r *http.Request) {
	data, err := h.scanIndex().Encode()
	if err != nil {
		http.Error(w, "the index cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method == http.MethodGet {
		control := http.NewResponseController(w)
		// A writer without deadlines, as in a test, is no reason to refuse.
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, _ = w.Write(data)
		_ = control.SetWriteDeadline(time.Time{})
	}
}

// answer is a file that may be sent, or a part of it.
type answer struct {
	held  *partial.Held
	size  int64
	image bool
	open  func() (io.ReadSeekCloser, error)
}

// send answers with the whole file or with one range (RFC 9110, section 14.2).
func (h *Handler) send(w http.ResponseWriter, r *http.Request, a answer) {
	m := a.held.Manifest
	if a.image {
		// The digest is the strongest validator that there is, and the same on
		// every node.
		w.Header().Set("ETag", `"`+m.SHA256.String()+`"`)
		w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(m.SHA256[:])+":")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Accept-Ranges", "bytes")
	from, to, ranged := parseRange(r.Header.Get("Range"), a.size)
	if tag := r.Header.Get("If-Range"); tag != "" && tag != w.Header().Get("ETag") {
		from, to, ranged = 0, a.size, false
	}
	complete := !a.image || a.held.State == repo.StateComplete
	switch {
	case ranged && from < 0, !complete && !ranged:
		unsatisfied(w, a.size)
		return
	case !complete:
		if to = durableEnd(a.held, from, to); to <= from {
			unsatisfied(w, a.size)
			return
		}
	}
	f, err := a.open()
	if err != nil {
		// A download that finished a moment ago has moved its file.
		h.cfg.Logger.Warn("image cannot be opened", "file", a.held.File, "error", err)
		h.rescan()
		http.Error(w, "the image is not there at the moment", http.StatusServiceUnavailable)
		return
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		http.Error(w, "the image cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if ranged {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, a.size))
		status = http.StatusPartialContent
	}
	w.WriteHeader(status)
	if r.Method == http.MethodGet {
		h.copy(w, r, f, to-from)
	}
}

// copy sends in pieces, each of which has its own deadline: a client may be slow
// for hours, but not silent.
func (h *Handler) copy(w http.ResponseWriter, r *http.Request, f io.Reader, n int64) {
	control := http.NewResponseController(w)
	for n > 0 {
		piece := min(n, pieceSize)
		if h.limiter != nil {
			piece = min(n, limitedPiece)
			if err := h.limiter.WaitN(r.Context(), int(piece)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		// A writer without deadlines, as in a test, is no reason to refuse.
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		sent, err := io.CopyN(w, f, piece)
		n -= sent
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if h.limiter != nil {
			_ = control.Flush()
		}
	}
	_ = control.SetWriteDeadline(time.Time{})
}

func unsatisfied(w http.ResponseWriter, size int64) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
	http.Error(w, "these bytes are not there (yet)", http.StatusRequestedRangeNotSatisfiable)
}

// durableEnd cuts a range to the run of durable chunks in which it begins.
func durableEnd(h *partial.Held, from, to int64) int64 {
	size := h.Manifest.Chunks.Size
	for _, e := range h.Have {
		if first, end := int64(e[0])*size, min(int64(e[1])*size, h.Manifest.Size); first <= from && from < end {
			return min(to, end)
		}
	}
	return 0
}

// parseRange reads one range. A header that it does not understand, or that asks
// for several ranges, is ignored, as the RFC allows; a range that lies outside
// has from -1.
func parseRange(s string, size int64) (from, to int64, ranged bool) {
	spec, ok := strings.CutPrefix(s, "bytes=")
	a, b, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, false
	}
	first, err1 := strconv.ParseUint(a, 10, 63)
	last, err2 := strconv.ParseUint(b, 10, 63)
	switch {
	case a == "" && err2 == nil: // the last bytes
		if last == 0 {
			return -1, 0, true
		}
		return max(0, size-int64(min(last, uint64(size)))), size, true
	case err1 != nil || b != "" && err2 != nil || b != "" && last < first:
		return 0, size, false
	case int64(first) >= size:
		return -1, 0, true
	case b == "":
		return int64(first), size, true
	}
	return int64(first), min(int64(last), size-1) + 1, true
}
