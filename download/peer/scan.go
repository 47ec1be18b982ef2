package peer

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/download/repo"
)

// cached keeps what does not change with progress: reading a passport again for
// every request would hash its chunk list each time.
type cached struct {
	stamp time.Time
	size  int64
	id    partial.Identified
}

// lookup returns the image at a path as it is now.
func (h *Handler) lookup(path string) *partial.Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scan()
	return h.held[path]
}

func (h *Handler) scanIndex() *repo.Index {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scan()
	x := &repo.Index{}
	for _, p := range h.order {
		held := h.held[p]
		e := repo.Entry{Envelope: held.Manifest.Envelope()}
		if held.State != repo.StateComplete {
			e.State, e.Have = held.State, held.Have
		}
		x.Images = append(x.Images, e)
	}
	return x
}

// rescan makes the next request look at the folder again.
func (h *Handler) rescan() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scanned = time.Time{}
}

// scan looks at the folder, at most a few times a second.
func (h *Handler) scan() {
	if now := time.Now(); now.Sub(h.scanned) < scanEvery && now.After(h.scanned) {
		return
	}
	h.held, h.order = map[string]*partial.Held{}, nil
	for _, name := range h.passports() {
		held, err := h.read(name)
		if err != nil {
			h.cfg.Logger.Debug("passport is passed over", "file", name, "error", err)
			continue
		}
		h.add(held)
	}
	for _, held := range readRepository(h.cfg.Dir) {
		h.add(held)
	}
	h.scanned = time.Now()
}

func (h *Handler) add(held *partial.Held) {
	path := held.Manifest.Path()
	if old := h.held[path]; old != nil {
		// The same image twice: the one that has more is served.
		if old.State == repo.StateComplete || held.State != repo.StateComplete && held.Have.Count() <= old.Have.Count() {
			return
		}
	} else {
		h.order = append(h.order, path)
	}
	h.held[path] = held
}

// read looks at one image, and reads its passport again only when it changed.
func (h *Handler) read(image string) (*partial.Held, error) {
	name := image + partial.PassportSuffix
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	c := h.cache[name]
	if !c.stamp.Equal(info.ModTime()) || c.size != info.Size() {
		id, err := partial.Identify(image)
		if err != nil {
			return nil, err
		}
		c = cached{info.ModTime(), info.Size(), id}
		h.cache[name] = c
	}
	return partial.ReadHeld(image, c.id)
}

// passports finds images: beside a passport in the folder, or named by a status
// file one level below.
func (h *Handler) passports() []string {
	entries, err := os.ReadDir(h.cfg.Dir)
	if err != nil {
		h.cfg.Logger.Warn("the folder cannot be read", "error", err)
		return nil
	}
	var out []string
	for _, e := range entries {
		name := filepath.Join(h.cfg.Dir, e.Name())
		switch image, ok := strings.CutSuffix(name, partial.PassportSuffix); {
		case ok && e.Type().IsRegular() && len(out) < maxPassports:
			out = append(out, image)
		case e.IsDir() && len(out) < maxStatuses:
			if image := statusOut(filepath.Join(name, "status.json")); image != "" {
				out = append(out, image)
			}
		}
	}
	return out
}

// statusOut returns where a status file says that its image is.
func statusOut(name string) string {
	data, err := readBounded(name, maxStatusFile)
	if err != nil {
		return ""
	}
	var st struct {
		Out string `json:"out"`
	}
	if json.Unmarshal(data, &st) != nil || !filepath.IsAbs(st.Out) {
		return ""
	}
	return st.Out
}

// readRepository returns the images of a repository that repo.Make made.
func readRepository(dir string) []*partial.Held {
	data, err := readBounded(filepath.Join(dir, repo.IndexPath), maxIndexFile)
	if err != nil {
		return nil
	}
	x, err := repo.ParseIndex(data)
	if err != nil {
		return nil
	}
	var out []*partial.Held
	for _, e := range x.Images {
		m, err := repo.Peek(e.Envelope)
		if err != nil {
			continue
		}
		file := filepath.Join(dir, filepath.FromSlash(m.Path()))
		list, err := readBounded(file+".chunks", repo.MaxChunkListBytes)
		if err != nil {
			continue
		}
		if info, err := os.Stat(file); err != nil || info.Size() != m.Size {
			continue
		}
		out = append(out, &partial.Held{Manifest: m, List: list, File: file, State: repo.StateComplete})
	}
	return out
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
