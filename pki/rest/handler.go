package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/certtext"
	"github.com/mooringlib/mooring/pki/verify"
)

const (
	// maxBody bounds every body but that of a certificate, in bytes.
	maxBody = 16 << 10
	// maxCertificateBody bounds the body with a certificate and its chain.
	maxCertificateBody = 512 << 10
	// strangerEvery and strangerBurst bound the audit records of calls by
	// nobody who is logged in: 60 at once, and 8,640 a day.
	strangerEvery = 10 * time.Second
	strangerBurst = 60
)

// Authenticator checks who calls. Implementations are safe for concurrent use
// and limit attempts by themselves. Package jwtauth has one.
type Authenticator interface {
	// Login checks a password and returns a token and when it ends. from is
	// the address of the caller, without a port. All refusals look the same to
	// the caller, but an error with the method Retry() time.Duration says that
	// there were too many attempts.
	Login(ctx context.Context, from, user, password string) (token string, end time.Time, err error)
	// Authenticate returns the user that a token was given to.
	Authenticate(ctx context.Context, token string) (user string, err error)
}

// Config is what a handler is made of. Manager and Auth are required.
type Config struct {
	Manager *pki.Manager
	Auth    Authenticator
	// Events takes the audit record of every call by a user, and of as many
	// refused calls by others as a bounded rate allows; not_recorded in the next
	// record counts the rest. Nil means nobody does.
	Events mooring.EventSink
	// Node is the name of this node in audit events.
	Node string
	// Logger may be nil, which is silent.
	Logger *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

type handler struct {
	cfg Config
	mux *http.ServeMux

	// strangers bounds the records that anybody can cause, so that they do not
	// push out those of users; dropped counts the ones that were left out.
	strangers *rate.Limiter
	dropped   atomic.Uint64
}

// New returns the handler. Serve it over TLS only.
func New(cfg Config) (http.Handler, error) {
	if cfg.Manager == nil || cfg.Auth == nil {
		return nil, errors.New("rest: config: Manager and Auth are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	h := &handler{cfg: cfg, mux: http.NewServeMux(), strangers: rate.NewLimiter(rate.Every(strangerEvery), strangerBurst)}
	h.handle("POST /api/v1/login", maxBody, false, h.login)
	h.handle("POST /api/v1/private-key", maxBody, true, h.privateKey)
	h.handle("POST /api/v1/certificate-request", maxBody, true, h.request)
	h.handle("GET /api/v1/certificate-request", maxBody, true, h.request)
	h.handle("POST /api/v1/certificate", maxCertificateBody, true, h.ingest)
	h.handle("GET /api/v1/certificate", maxBody, true, h.list)
	h.handle("GET /api/v1/certificate/{name}", maxBody, true, h.show)
	return h, nil
}

// call is one request on its way. A handler returns what to answer.
type call struct {
	r    *http.Request
	user string
}

type handlerFunc func(c *call) (any, error)

func (h *handler) handle(pattern string, limit int64, auth bool, f handlerFunc) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		c := &call{r: r}
		var answer any
		var err error
		if auth {
			c.user, err = h.authenticate(r)
		}
		if err == nil {
			answer, err = f(c)
		}
		status := http.StatusOK
		if err != nil {
			var p *problem
			p, status = explain(err)
			if p.retry > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(int(p.retry.Seconds())+1))
			}
			if status == http.StatusUnauthorized && auth {
				w.Header().Set("WWW-Authenticate", `Bearer realm="pki"`)
			}
			if status == http.StatusInternalServerError {
				h.cfg.Logger.ErrorContext(r.Context(), "call failed", "path", r.URL.Path, "error", err)
			}
			answer = p
		}
		h.write(w, status, answer)
		h.audit(c, status)
	})
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := h.mux.Handler(r); pattern != "" {
		h.mux.ServeHTTP(w, r)
		return
	}
	// The mux knows no JSON; it is asked which of the two answers is right.
	probe := &statusProbe{header: http.Header{}}
	h.mux.ServeHTTP(probe, r)
	p, status := &problem{Code: "not_found", Message: "there is no such resource"}, http.StatusNotFound
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		p, status = &problem{Code: "method_not_allowed", Message: "this method is not for this resource"}, http.StatusMethodNotAllowed
	}
	h.write(w, status, p)
	h.audit(&call{r: r}, status)
}

type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }

func (h *handler) write(w http.ResponseWriter, status int, answer any) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(answer); err != nil {
		h.cfg.Logger.Warn("answer not written", "error", err)
	}
}

// audit records who called what and how it ended, and nothing of the body.
func (h *handler) audit(c *call, status int) {
	if h.cfg.Events == nil {
		return
	}
	if c.user == "" && !h.strangers.AllowN(h.cfg.Now(), 1) {
		h.dropped.Add(1)
		return
	}
	path := c.r.URL.Path
	if len(path) > 200 {
		path = path[:200]
	}
	fields := map[string]any{"method": c.r.Method, "path": path, "user": c.user, "remote": remote(c.r), "status": status}
	if n := h.dropped.Swap(0); n > 0 {
		fields["not_recorded"] = n
	}
	detail, err := json.Marshal(fields)
	if err != nil {
		h.cfg.Logger.Error("audit detail", "error", err)
	}
	kind, description := "system.api_call", fmt.Sprintf("Called %s %s", c.r.Method, path)
	if path == "/api/v1/login" {
		kind, description = "system.login", "Logged in: "+c.user
		if c.user == "" {
			// What was given as a user name may be a password.
			description = "Refused a login"
		}
	}
	h.cfg.Events.RecordEvent(c.r.Context(), mooring.Event{
		Type: kind, Time: h.cfg.Now(), Node: h.cfg.Node, Description: description, Detail: detail, Permitted: status < 400,
	})
}

// remote returns the address of the caller.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

var errUnauthorized = errors.New("log in first, and send the token as \"Authorization: Bearer TOKEN\"")

func (h *handler) authenticate(r *http.Request) (string, error) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", errUnauthorized
	}
	user, err := h.cfg.Auth.Authenticate(r.Context(), strings.TrimSpace(token))
	if err != nil {
		return "", errUnauthorized
	}
	return user, nil
}

func (h *handler) login(c *call) (any, error) {
	var req struct {
		Username    string `json:"username"`
		Password    string `json:"password"`
		Application string `json:"application"`
	}
	if err := decode(c.r, &req, true); err != nil {
		return nil, err
	}
	token, _, err := h.cfg.Auth.Login(c.r.Context(), remote(c.r), req.Username, req.Password)
	if err != nil {
		p := &problem{Code: "login_refused", Message: "user name or password is wrong", status: http.StatusUnauthorized}
		var limited interface{ Retry() time.Duration }
		if errors.As(err, &limited) {
			p = &problem{Code: "too_many_attempts", Message: "too many attempts; try again later", status: http.StatusTooManyRequests, retry: limited.Retry()}
		}
		return nil, p
	}
	c.user = req.Username
	return map[string]string{"token": token}, nil
}

func (h *handler) privateKey(c *call) (any, error) {
	var req pki.KeyRequest
	if err := decode(c.r, &req, false); err != nil {
		return nil, err
	}
	if err := h.cfg.Manager.CreateKey(c.r.Context(), req); err != nil {
		return nil, err
	}
	req.Replace = false
	return req, nil
}

func (h *handler) request(c *call) (any, error) {
	var req struct {
		pki.Request
		// The name of subject_alt_names in the product's own documentation.
		AltNames []string `json:"subjectAltNames"`
	}
	if err := decode(c.r, &req, false); err != nil {
		return nil, err
	}
	if len(req.AltNames) > 0 && len(req.SubjectAltNames) > 0 {
		return nil, pki.FieldErrors{{Field: "subjectAltNames", Text: "it is another name of subject_alt_names; give one of them"}}
	}
	if len(req.AltNames) > 0 {
		req.SubjectAltNames = req.AltNames
	}
	csr, err := h.cfg.Manager.CreateRequest(c.r.Context(), req.Request)
	if err != nil {
		return nil, err
	}
	return map[string]string{"csr": string(csr)}, nil
}

func (h *handler) ingest(c *call) (any, error) {
	var req struct {
		Name        string `json:"name"`
		Certificate string `json:"certificate"`
	}
	if err := decode(c.r, &req, false); err != nil {
		return nil, err
	}
	if req.Certificate == "" {
		return nil, pki.FieldErrors{{Field: "certificate", Text: "it is missing"}}
	}
	report, err := h.cfg.Manager.Ingest(c.r.Context(), req.Name, []byte(req.Certificate))
	var f *verify.Failure
	if errors.As(err, &f) {
		return nil, &problem{Code: "certificate_refused", Message: f.Error(), Field: "certificate", Report: report, status: http.StatusUnprocessableEntity}
	}
	if err != nil {
		return nil, err
	}
	return report, nil
}

func (h *handler) list(c *call) (any, error) {
	return map[string]any{
		"certificates": h.cfg.Manager.Show(c.r.Context()),
		"alarms":       h.cfg.Manager.Alarms(),
		"counters":     h.cfg.Manager.Counters(),
	}, nil
}

func (h *handler) show(c *call) (any, error) {
	name := c.r.PathValue("name")
	for _, s := range h.cfg.Manager.Show(c.r.Context()) {
		if s.Name != name {
			continue
		}
		answer := map[string]any{"status": s}
		if certs, err := h.cfg.Manager.Certificate(name); err == nil {
			answer["detail"] = certtext.New(certs[0])
			answer["certificate"] = encode(certs)
		}
		return answer, nil
	}
	return nil, fmt.Errorf("%w: %.80q", pki.ErrNotFound, name)
}
