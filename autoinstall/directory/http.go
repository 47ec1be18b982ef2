package directory

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

const reasonHeader = "Mooring-Reason"

// ServeHTTP serves /certificates/SERIAL.crt and nothing else. Put it behind TLS.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.tellStrangers(r.Context())
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
	p := Publication{Serial: serial, Reason: r.Header.Get(reasonHeader)}
	secret, ok := bearer(r)
	if ok {
		p.By, ok = s.authorize(secret)
	}
	// To look at a token costs one hash, so it comes before the limits: nobody
	// without one gets at the limit of those who have one.
	limit := s.guesses
	if ok {
		limit = s.publishes
	}
	if !limit.allow(r.RemoteAddr, s.cfg.Now()) {
		s.fail(w, ErrLimited)
		return
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="manufacturing"`)
		s.auditStranger(r.Context(), serial)
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
