package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

// HTTPConfig says where a repository or a peer is.
type HTTPConfig struct {
	// URL is the base: index.json stands right below it. http or https.
	URL string
	// TLS is the client configuration for https; nil trusts the system's roots.
	// A configuration that does not verify the server is refused.
	TLS *tls.Config
	// Proxy is the address of an HTTP proxy, or nil for none.
	Proxy *url.URL
	// MaxBandwidth, in bits per second, keeps receive buffers small enough that
	// a limit holds on the wire too; 0 is unlimited. It limits nothing itself.
	MaxBandwidth int64
	// Dial replaces the way to connect, for a product that binds to an
	// interface or a VRF; nil dials with the system's routes.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// UserAgent is sent with each request; default "mooring-download".
	UserAgent string
}

// HTTP is an HTTP source.
type HTTP struct {
	base      *url.URL
	client    *http.Client
	transport *http.Transport
	agent     string

	mu        sync.Mutex
	etags     map[string]string // strong validators, by path
	noIfRange map[string]bool   // where If-Range made the server forget the range
}

var errRedirect = errors.New("redirect")

// NewHTTP returns a source, or an error that says what is wrong with cfg. It
// does no I/O.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		// What cannot be parsed may hold a password anywhere.
		return nil, errors.New("source: url: it cannot be parsed; want http:// or https:// and a host")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("source: url %.200q: want http:// or https://, a host, and no query", u.Redacted())
	}
	if cfg.TLS != nil && cfg.TLS.InsecureSkipVerify && cfg.TLS.VerifyConnection == nil {
		return nil, errors.New("source: a TLS configuration that does not verify the server is not taken")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	if cfg.UserAgent == "" {
		cfg.UserAgent = "mooring-download"
	}
	if cfg.Dial == nil {
		d := &net.Dialer{KeepAlive: 15 * time.Second, Control: receiveBuffer(cfg.MaxBandwidth)}
		cfg.Dial = d.DialContext
	}
	t := &http.Transport{
		DialContext:            patientDial(cfg.Dial),
		TLSClientConfig:        cfg.TLS.Clone(),
		TLSHandshakeTimeout:    tlsTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// HTTP/2 would put all ranges on one TCP connection, which is what
		// several connections are to avoid.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if cfg.Proxy != nil {
		t.Proxy = http.ProxyURL(cfg.Proxy)
	}
	return &HTTP{
		base: u, transport: t, agent: cfg.UserAgent,
		client: &http.Client{Transport: t, CheckRedirect: checkRedirect},
		etags:  map[string]string{}, noIfRange: map[string]bool{},
	}, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d, the last to %.200q", errRedirect, maxRedirects, req.URL.Redacted())
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: from https to %.200q", errRedirect, req.URL.Redacted())
	}
	return nil
}

// patientDial begins another connection each second while the first ones have no
// answer, and takes whichever is made first. TCP alone would send its next
// SYN many seconds after a dead link is back.
func patientDial(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		type result struct {
			c   net.Conn
			err error
		}
		results := make(chan result)
		var wg sync.WaitGroup
		defer func() {
			cancel()
			// The losers are closed; the winner has left the channel.
			go func() { wg.Wait(); close(results) }()
			for r := range results {
				if r.c != nil {
					_ = r.c.Close()
				}
			}
		}()
		var cancels []context.CancelFunc
		start := func() {
			dctx, stop := context.WithCancel(ctx)
			cancels = append(cancels, stop)
			if len(cancels) > maxDials {
				// The oldest has backed off longest; it is given up.
				cancels[0]()
				cancels = cancels[1:]
			}
			wg.Go(func() {
				c, err := dial(dctx, network, address)
				results <- result{c, err}
			})
		}
		defer func() {
			for _, stop := range cancels {
				stop()
			}
		}()
		start()
		again := time.NewTicker(dialAgain)
		defer again.Stop()
		running := 1
		for {
			select {
			case <-again.C:
				start()
				running++
			case r := <-results:
				running--
				if r.err == nil {
					return r.c, nil
				}
				if ctx.Err() != nil || running == 0 {
					return nil, r.err
				}
			}
		}
	}
}

func (h *HTTP) get(ctx context.Context, path, rangeHeader, ifRange string) (*http.Response, error) {
	u := *h.base
	u.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", h.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if rangeHeader != "" {
		req.Header.Set("Range", rangeHeader)
	}
	if ifRange != "" {
		req.Header.Set("If-Range", ifRange)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		// A connection that is only idle may be as dead as this one.
		h.transport.CloseIdleConnections()
		return nil, classify(err)
	}
	return resp, nil
}

// classify tells what kind of failure made a request end without an answer.
func classify(err error) error {
	fault := download.FaultConnection
	var (
		unknown   x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		urlErr    *url.Error
		shortened = err
	)
	if errors.As(err, &urlErr) {
		shortened = urlErr.Err
	}
	switch {
	case errors.Is(err, errRedirect):
		fault = download.FaultProtocol
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &host), errors.As(err, &record), errors.As(err, &alert):
		fault = download.FaultTLS
	}
	return &download.SourceError{Fault: fault, Err: shortened}
}

// small reads a bounded file.
func (h *HTTP) small(ctx context.Context, path string, limit int64) ([]byte, error) {
	resp, err := h.get(ctx, path, "", "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, &download.SourceError{Fault: download.FaultConnection, Err: err}
	}
	if int64(len(data)) > limit {
		return nil, &download.SourceError{Fault: download.FaultProtocol, Err: fmt.Errorf("%s has more than %d bytes", path, limit)}
	}
	return data, nil
}

// Index implements [download.Fetcher].
func (h *HTTP) Index(ctx context.Context) (*repo.Index, error) {
	data, err := h.small(ctx, repo.IndexPath, repo.MaxIndexBytes)
	if err != nil {
		return nil, err
	}
	x, err := repo.ParseIndex(data)
	if err != nil {
		return nil, &download.SourceError{Fault: download.FaultProtocol, Err: err}
	}
	return x, nil
}

// ChunkList implements [download.Fetcher].
func (h *HTTP) ChunkList(ctx context.Context, m *repo.Manifest) ([]byte, error) {
	return h.small(ctx, m.ChunkListPath(), repo.MaxChunkListBytes)
}

// Open implements [download.Fetcher].
func (h *HTTP) Open(ctx context.Context, m *repo.Manifest, off, n int64) (*download.Body, error) {
	path := m.Path()
	wanted := fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	validator := h.validator(path)
	resp, err := h.get(ctx, path, wanted, validator)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && validator != "" {
		// The content may have changed, or this server forgets the range when
		// it sees If-Range. The chunk digests decide which; so it is asked once
		// more without.
		_ = resp.Body.Close()
		h.forget(path, etagOf(resp) == validator)
		if resp, err = h.get(ctx, path, wanted, ""); err != nil {
			return nil, err
		}
	}
	body, err := h.accept(resp, m, off, n)
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	h.remember(path, etagOf(resp))
	return body, nil
}

// accept checks an answer against what was asked.
func (h *HTTP) accept(resp *http.Response, m *repo.Manifest, off, n int64) (*download.Body, error) {
	protocol := func(format string, args ...any) error {
		return &download.SourceError{Fault: download.FaultProtocol, Err: fmt.Errorf(format, args...)}
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, protocol("it sent content-encoding %.40q, which was not asked for", e)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != m.Size {
			return nil, protocol("its file has %d bytes, the manifest says %d", resp.ContentLength, m.Size)
		}
		return &download.Body{ReadCloser: resp.Body, Whole: true}, nil
	case http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, protocol("it refuses the range %d-%d (content-range %.60q)", off, off+n-1, resp.Header.Get("Content-Range"))
	default:
		return nil, statusError(resp)
	}
	if strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "multipart/") {
		return nil, protocol("it answered one range with several parts")
	}
	if len(resp.Header.Values("Content-Range")) != 1 {
		return nil, protocol("it sent %d content-range headers", len(resp.Header.Values("Content-Range")))
	}
	first, last, total, err := parseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return nil, protocol("%w", err)
	case first < 0 || first > off || last > off+n-1 || last < off:
		return nil, protocol("asked for bytes %d-%d, it sends %d-%d", off, off+n-1, first, last)
	case total >= 0 && total != m.Size:
		return nil, protocol("its file has %d bytes, the manifest says %d", total, m.Size)
	case resp.ContentLength >= 0 && resp.ContentLength != last-first+1:
		return nil, protocol("content-length %d does not fit bytes %d-%d", resp.ContentLength, first, last)
	}
	// A body that is longer than its range is cut; a shorter one ends early.
	type body struct {
		io.Reader
		io.Closer
	}
	return &download.Body{ReadCloser: body{io.LimitReader(resp.Body, last-first+1), resp.Body}, Offset: first}, nil
}

func statusError(resp *http.Response) error {
	e := &download.SourceError{Fault: download.FaultStatus, Err: fmt.Errorf("status %d", resp.StatusCode)}
	after, has := retryAfter(resp.Header.Get("Retry-After"))
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound, code == http.StatusGone:
		e.Fault = download.FaultNotFound
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		e.Fault = download.FaultForbidden
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable && has:
		e.Fault, e.RetryAfter = download.FaultBusy, after
		if !has {
			e.RetryAfter = unsaidRetryAfter
		}
	}
	return e
}

// retryAfter reads seconds or a date (RFC 9110, section 10.2.3), capped.
func retryAfter(s string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter), true
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter), true
	}
	return 0, false
}

// etagOf returns a strong validator, or nothing: a weak one does not say that
// the bytes are the same (RFC 9110, section 13.1.5).
func etagOf(resp *http.Response) string {
	e := resp.Header.Get("ETag")
	if len(e) < 2 || len(e) > 256 || e[0] != '"' || e[len(e)-1] != '"' {
		return ""
	}
	return e
}

func (h *HTTP) validator(path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noIfRange[path] {
		return ""
	}
	return h.etags[path]
}

func (h *HTTP) forget(path string, sameTag bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.etags, path)
	if sameTag {
		h.noIfRange[path] = true
	}
}

func (h *HTTP) remember(path, etag string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if etag != "" {
		h.etags[path] = etag
	}
}
