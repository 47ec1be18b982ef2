package directory

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/mooringlib/mooring"
)

const reasonHeader = "Mooring-Reason"

// ServeHTTP serves /certificates/SERIAL.crt and nothing else. Put it behind TLS.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/certificates/")
	serial, isCert := strings.CutSuffix(name, ".crt")
	if !ok || !isCert {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		s.serveLookup(w, r, serial)
	case http.MethodPut:
		s.servePublish(w, r, serial)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (s *Server) serveLookup(w http.ResponseWriter, r *http.Request, serial string) {
	if !s.lookups.allow(r.RemoteAddr, s.cfg.Now()) {
		s.fail(w, ErrLimited)
		return
	}
	rec, err := s.cfg.Store.Lookup(r.Context(), serial)
	if err != nil {
		if errors.Is(err, ErrRefused) {
			err = ErrNotFound // An impossible serial number is an unknown one.
		}
		s.fail(w, err)
		return
	}
	writeCertificate(w, http.StatusOK, rec.Current())
}

func (s *Server) servePublish(w http.ResponseWriter, r *http.Request, serial string) {
	if !s.publishes.allow(r.RemoteAddr, s.cfg.Now()) {
		s.fail(w, ErrLimited)
		return
	}
	p := Publication{Serial: serial, Reason: r.Header.Get(reasonHeader)}
	secret, ok := bearer(r)
	if ok {
		p.By, ok = s.authorize(secret)
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="manufacturing"`)
		s.audit(r.Context(), p, Version{}, false, ErrUnauthorized)
		s.fail(w, ErrUnauthorized)
		return
	}
	if match := r.Header.Get("If-Match"); match != "" {
		p.Replaces = strings.Trim(match, `"`)
	}
	var err error
	if p.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody)); err != nil {
		s.fail(w, fmt.Errorf("%w: the body can't be read, or is longer than %d bytes", ErrRefused, MaxBody))
		return
	}
	v, published, err := s.Publish(r.Context(), p)
	if err != nil {
		s.fail(w, err)
		return
	}
	status := http.StatusOK
	if published {
		status = http.StatusCreated
	}
	writeCertificate(w, status, v)
}

func bearer(r *http.Request) ([]byte, bool) {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, false
	}
	t, err := ParseToken(text)
	return t.secret, err == nil
}

// writeCertificate answers in PEM: that is what the tools of RFC 8886's appendix
// read.
func writeCertificate(w http.ResponseWriter, status int, v Version) {
	h := w.Header()
	h.Set("Content-Type", "application/x-pem-file")
	h.Set("ETag", `"`+v.SHA256+`"`)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate})
}

// statuses are the answers for our errors. Others are our own trouble, and the
// reason stays with us.
var statuses = []struct {
	err    error
	status int
}{
	{ErrNotFound, http.StatusNotFound},
	{ErrPublished, http.StatusConflict},
	{ErrKeyInUse, http.StatusConflict},
	{ErrStale, http.StatusPreconditionFailed},
	{ErrRefused, http.StatusUnprocessableEntity},
	{ErrUnauthorized, http.StatusUnauthorized},
	{ErrLimited, http.StatusTooManyRequests},
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	for _, st := range statuses {
		if errors.Is(err, st.err) {
			if st.status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "60")
			}
			http.Error(w, err.Error(), st.status)
			return
		}
	}
	s.cfg.Logger.Error("request failed", slog.Any("error", err))
	http.Error(w, "the directory is in trouble", http.StatusInternalServerError)
}

// audit tells about everything that was or was not published.
func (s *Server) audit(ctx context.Context, p Publication, v Version, published bool, err error) {
	if s.cfg.Events == nil || err == nil && !published {
		return
	}
	e := mooring.Event{Type: "directory.publish", Time: s.cfg.Now(), Permitted: err == nil, Description: fmt.Sprintf("certificate of %.64q", p.Serial)}
	if p.Replaces != "" {
		e.Type = "directory.replace"
	}
	detail := map[string]string{"serial": clip(p.Serial), "by": p.By}
	if err != nil {
		detail["error"] = err.Error()
	} else {
		detail["sha256"], detail["key_sha256"] = v.SHA256, v.KeySHA256
	}
	if p.Replaces != "" {
		detail["replaces"], detail["reason"] = clip(p.Replaces), clip(p.Reason)
	}
	e.Detail, _ = json.Marshal(detail)
	s.cfg.Events.RecordEvent(ctx, e)
}

func clip(s string) string { return s[:min(len(s), maxReason)] }
