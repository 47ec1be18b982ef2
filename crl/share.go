package crl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mooringlib/mooring/crl/internal/fetch"
	"github.com/mooringlib/mooring/crl/internal/patch"
)

// manifest says what a conductor has. It needs no signature: every list is
// signed by its issuer, and a router checks it like one from anywhere.
type manifest struct {
	Generation uint64          `json:"generation"`
	Lists      []manifestList  `json:"lists"`
	Patches    []manifestPatch `json:"patches,omitempty"`
}

type manifestList struct {
	ID     string `json:"id"`
	Line   string `json:"line"`
	Issuer string `json:"issuer"`
	Number string `json:"number,omitempty"`
	Size   int64  `json:"size"`
}

type manifestPatch struct {
	From string `json:"from"`
	To   string `json:"to"`
	Size int64  `json:"size"`
}

var (
	listPath  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	patchPath = regexp.MustCompile(`^[0-9a-f]{64}-[0-9a-f]{64}$`)
)

// Handler shares the lists in force with routers, which take them with
// [Manager.Sync]. It serves GET and HEAD of v1/manifest, v1/lists/ID and
// v1/patches/OLD-NEW below the place where it is mounted, whole or in ranges.
// What it serves is public and signed by the issuers of the lists, so it needs
// neither TLS nor a login; the server around it should bound times.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/manifest", m.serveManifest)
	mux.HandleFunc("GET /v1/lists/{id}", func(w http.ResponseWriter, r *http.Request) {
		m.serveFile(w, r, listPath, listsDir, ".crl", "application/pkix-crl")
	})
	mux.HandleFunc("GET /v1/patches/{id}", func(w http.ResponseWriter, r *http.Request) {
		m.serveFile(w, r, patchPath, patchesDir, ".patch", "application/octet-stream")
	})
	return mux
}

func (m *Manager) serveManifest(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	err := m.reopen()
	m.mu.Unlock()
	s := m.snap.Load()
	if s == nil {
		m.cfg.Logger.Warn("manifest can't be served", "error", err)
		http.Error(w, "no lists", http.StatusServiceUnavailable)
		return
	}
	doc := manifest{Lists: []manifestList{}}
	if s.file != nil {
		doc.Generation = s.file.Generation
	}
	for i := range s.lists {
		if meta := s.lists[i].meta; s.lists[i].signer != nil {
			doc.Lists = append(doc.Lists, manifestList{ID: meta.ID, Line: meta.Line, Issuer: oneLine(meta.Issuer), Number: meta.Number, Size: meta.Size})
		}
	}
	doc.Patches = m.patches()
	data, err := json.Marshal(doc)
	if err != nil {
		http.Error(w, "no manifest", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (m *Manager) patches() (out []manifestPatch) {
	entries, err := os.ReadDir(filepath.Join(m.cfg.Directory, patchesDir))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".patch")
		if info, err := e.Info(); ok && err == nil && patchPath.MatchString(name) {
			from, to, _ := strings.Cut(name, "-")
			out = append(out, manifestPatch{from, to, info.Size()})
		}
	}
	return out
}

func (m *Manager) serveFile(w http.ResponseWriter, r *http.Request, valid *regexp.Regexp, dir, suffix, kind string) {
	id := r.PathValue("id")
	if !valid.MatchString(id) {
		http.NotFound(w, r)
		return
	}
	f, err := os.Open(filepath.Join(m.cfg.Directory, dir, id+suffix))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	// The name is the identity of the content.
	w.Header().Set("ETag", `"`+id+`"`)
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", time.Time{}, f)
}

// Sync takes over the lists that a conductor shares at base, the place where
// its [Manager.Handler] is mounted: as differences to what is here where that is
// less, whole otherwise. Everything is verified as if it came from its issuer,
// and nothing goes back, so a conductor can withhold a list, which shows when
// the one in force ends, and can't un-revoke. An alarm stays until a Sync
// succeeds.
func (m *Manager) Sync(ctx context.Context, base string) error {
	if err := fetch.Check(base); err != nil || !strings.HasPrefix(base, "http") {
		return errors.Join(fmt.Errorf("crl: %.80q is no http or https address to sync from", base), err)
	}
	if err := m.ready(ctx); err != nil {
		return err
	}
	base = strings.TrimSuffix(base, "/")
	doc, err := m.getManifest(ctx, base)
	if err != nil {
		o := &outcome{key: base, url: base, forced: true, fetch: err, alarm: alarmSync}
		return errors.Join(fmt.Errorf("crl: sync from %q: %w", fetch.Redact(base), err), m.conclude(ctx, []*outcome{o}))
	}
	steps := make(map[string]manifestPatch)
	for _, p := range doc.Patches {
		steps[p.From] = p
	}
	var errs []error
	for _, l := range doc.Lists {
		if !listPath.MatchString(l.ID) || l.Size < 0 {
			errs = append(errs, fmt.Errorf("manifest names a list %.80q", l.ID))
			continue
		}
		m.mu.Lock()
		held := m.inForce(l.ID)
		m.mu.Unlock()
		if held {
			continue
		}
		if o := m.syncList(ctx, base, l, steps); o != nil {
			errs = append(errs, m.conclude(ctx, []*outcome{o}), o.err())
		}
	}
	err = errors.Join(errs...)
	last := &outcome{key: base, url: base, forced: true, notModified: true, ingest: err, alarm: alarmSync}
	if conclude := m.conclude(ctx, []*outcome{last}); err == nil {
		err = conclude
	}
	if err != nil {
		return fmt.Errorf("crl: sync from %q: %w", fetch.Redact(base), err)
	}
	return nil
}

func (m *Manager) getManifest(ctx context.Context, base string) (*manifest, error) {
	resp, err := m.client.Get(ctx, fetch.Request{URL: base + "/v1/manifest", Limit: maxManifest})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	doc := new(manifest)
	if err := json.Unmarshal(data, doc); err != nil {
		return nil, errors.New("the answer is no manifest of a conductor")
	}
	if len(doc.Lists) > maxShared {
		return nil, fmt.Errorf("the conductor shares %d lists, more than %d", len(doc.Lists), maxShared)
	}
	return doc, nil
}

// syncList gets one list. Patches that can't be had or do not fit only cost the
// way of the whole list.
func (m *Manager) syncList(ctx context.Context, base string, l manifestList, steps map[string]manifestPatch) *outcome {
	o := &outcome{key: base, url: base + "/v1/lists/" + l.ID, forced: true, part: true}
	if chain := m.chain(l, steps); len(chain) > 0 {
		staged, err := m.patched(ctx, base, l, chain)
		if err == nil {
			o.staged, o.url = staged, base+"/v1/patches/"+chain[len(chain)-1].From+"-"+l.ID
			return o
		}
		m.cfg.Logger.Warn("patches can't be used, the whole list is fetched", "error", err)
	}
	whole := m.get(ctx, fetch.Request{URL: o.url, Limit: m.cfg.MaxListBytes})
	whole.key, whole.forced, whole.part = o.key, true, true
	return whole
}

// chain returns the patches that lead from the list that is here to l, nil when
// they do not, or are longer than l itself.
func (m *Manager) chain(l manifestList, steps map[string]manifestPatch) (out []manifestPatch) {
	have := m.snap.Load().held(l.Line)
	if have == nil {
		return nil
	}
	var size int64
	for at := have.meta.ID; at != l.ID; {
		p, ok := steps[at]
		size += p.Size
		if !ok || p.Size <= 0 || size >= l.Size || len(out) == maxChain || !listPath.MatchString(p.To) || !listPath.MatchString(p.From) {
			return nil
		}
		out = append(out, p)
		at = p.To
	}
	return out
}

// patched applies a chain of patches. Only what the last one makes is verified
// and read; a wrong one in between ends in a wrong identity there.
func (m *Manager) patched(ctx context.Context, base string, l manifestList, chain []manifestPatch) (*staged, error) {
	f, err := os.Open(filepath.Join(m.cfg.Directory, listsDir, chain[0].From+".crl"))
	if err != nil {
		return nil, err
	}
	temp := ""
	defer func() {
		_ = f.Close()
		if temp != "" {
			_ = os.Remove(temp)
		}
	}()
	var made int64
	for i, p := range chain {
		resp, err := m.client.Get(ctx, fetch.Request{URL: base + "/v1/patches/" + p.From + "-" + p.To, Limit: m.cfg.MaxListBytes})
		if err != nil {
			return nil, err
		}
		r, err := patch.NewReader(resp.Body, f, m.cfg.MaxListBytes)
		if err != nil {
			_ = resp.Body.Close()
			return nil, err
		}
		if i == len(chain)-1 {
			defer resp.Body.Close()
			s, err := m.receive(ctx, r, base+"/v1/lists/"+l.ID)
			if err == nil && s.meta.ID != l.ID {
				s.drop()
				return nil, errors.New("patches make another list than they promise")
			}
			return s, err
		}
		next, err := os.CreateTemp(filepath.Join(m.cfg.Directory, spoolDir), "patched-*")
		if err != nil {
			_ = resp.Body.Close()
			return nil, err
		}
		n, err := io.Copy(next, r)
		_ = resp.Body.Close()
		// One step at a time is on disk, and all of them together are
		// bounded: a small patch can make a large file.
		_ = f.Close()
		if temp != "" {
			_ = os.Remove(temp)
		}
		f, temp = next, next.Name()
		made += n
		if err != nil {
			return nil, err
		}
		if made > maxPatched*m.cfg.MaxListBytes {
			return nil, fmt.Errorf("patches make more than %d bytes on the way", made)
		}
	}
	return nil, errors.New("no patches")
}
