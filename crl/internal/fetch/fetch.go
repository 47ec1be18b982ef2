// Package fetch gets revocation lists over http, https and from files, on a
// network that may be hostile: redirects, times and addresses are bounded, a
// broken transfer is taken up again, and what did not change is not sent twice.
package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Request says what to get.
type Request struct {
	URL string
	// Guarded requests can't reach private, loopback and link-local addresses.
	Guarded bool
	// ETag and LastModified are the validators of what is held already; with
	// one of them the answer may be that nothing changed.
	ETag, LastModified string
	// Limit is how many bytes the answer may have.
	Limit int64
}

// Response is an answer. Body must be closed.
type Response struct {
	NotModified        bool
	ETag, LastModified string
	Body               io.ReadCloser
}

// Client fetches. It is safe for concurrent use.
type Client struct {
	open, guarded      *http.Client
	idle, total, grace time.Duration
}

// New returns a client. TLS may be nil.
func New(cfg *tls.Config) *Client {
	return &Client{
		open: httpClient(cfg, false), guarded: httpClient(cfg, true),
		idle: idleTimeout, total: totalTimeout, grace: rateGrace,
	}
}

// CloseIdle closes connections that are not in use.
func (c *Client) CloseIdle() {
	c.open.CloseIdleConnections()
	c.guarded.CloseIdleConnections()
}

// ErrPrivate says that an address is not for lists that certificates name.
var ErrPrivate = errors.New("private, loopback and link-local addresses are not allowed for addresses that come out of certificates")

func httpClient(cfg *tls.Config, guarded bool) *http.Client {
	d := &net.Dialer{Timeout: dialTimeout}
	if guarded {
		// The check stands behind name resolution, so that a name can't point
		// at one address when it is checked and at another when it is used.
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if !Public(ap.Addr()) {
				return fmt.Errorf("%w: %s", ErrPrivate, ap.Addr())
			}
			return nil
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            d.DialContext,
			TLSClientConfig:        cfg.Clone(),
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  idleTimeout,
			MaxResponseHeaderBytes: maxHeader,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    1,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: redirect,
	}
}

func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	from := via[len(via)-1].URL.Scheme
	if to := req.URL.Scheme; to != "http" && to != "https" || from == "https" && to != "https" {
		return fmt.Errorf("redirect from %s to %q is not followed", from, to)
	}
	return nil
}

// special are blocks that reach into a network although no method of
// netip.Addr names them.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// Public reports whether an address belongs to the public network.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Check reports why an address can't be fetched from at all, nil if it can.
func Check(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("address %.80q is malformed", raw)
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return fmt.Errorf("address %.80q has no host", raw)
		}
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return fmt.Errorf("address %.80q is no local file", raw)
		}
	case "ldap", "ldaps":
		return fmt.Errorf("address %.80q: ldap is not supported, use http, https or file", raw)
	default:
		return fmt.Errorf("address %.80q: scheme is not http, https or file", raw)
	}
	return nil
}

// Redact returns an address without user and password.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return raw
	}
	u.User = nil
	return u.String()
}

// Get fetches. The whole transfer, reading the body included, is bounded in
// time and ends when ctx does.
func (c *Client) Get(ctx context.Context, r Request) (*Response, error) {
	if err := Check(r.URL); err != nil {
		return nil, err
	}
	u, _ := url.Parse(r.URL)
	if u.Scheme == "file" {
		if r.Guarded {
			return nil, errors.New("files are not read for addresses that come out of certificates")
		}
		return file(u.Path)
	}
	ctx, cancel := context.WithTimeout(ctx, c.total)
	b := &body{client: c.open, limits: c, ctx: ctx, cancel: cancel, req: r, start: time.Now()}
	if r.Guarded {
		b.client = c.guarded
	}
	resp, err := b.first()
	if err != nil {
		cancel()
		return nil, plain(err)
	}
	return resp, nil
}

func file(path string) (*Response, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	// A pipe would block, a device would never end.
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%.200q is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &Response{Body: f}, nil
}

// plain drops the method and the address, which may hold a password and which
// the caller knows.
func plain(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// body reads an answer and takes a broken transfer up again.
type body struct {
	client *http.Client
	limits *Client
	ctx    context.Context // of this one transfer
	cancel context.CancelFunc
	req    Request
	start  time.Time

	resp      *http.Response
	have      int64
	total     int64 // -1 when the server did not say
	validator string
	resumes   int
	watch     *time.Timer
}

func (b *body) do(resume bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.req.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "mooring-crl")
	req.Header.Set("Accept", "application/pkix-crl, application/x-pem-file;q=0.9, */*;q=0.5")
	if resume {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.have))
		req.Header.Set("If-Range", b.validator)
	} else {
		if b.req.ETag != "" {
			req.Header.Set("If-None-Match", b.req.ETag)
		}
		if b.req.LastModified != "" {
			req.Header.Set("If-Modified-Since", b.req.LastModified)
		}
	}
	return b.client.Do(req)
}

func (b *body) first() (*Response, error) {
	resp, err := b.do(false)
	if err != nil {
		return nil, err
	}
	out := &Response{ETag: validator(resp, "ETag"), LastModified: validator(resp, "Last-Modified")}
	if resp.StatusCode == http.StatusNotModified && (b.req.ETag != "" || b.req.LastModified != "") {
		_ = resp.Body.Close()
		b.cancel()
		out.NotModified = true
		return out, nil
	}
	if err := b.accept(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	if out.ETag != "" && !strings.HasPrefix(out.ETag, "W/") {
		b.validator = out.ETag
	} else if out.LastModified != "" {
		b.validator = out.LastModified
	}
	b.resp, b.total = resp, resp.ContentLength
	b.watch = time.AfterFunc(b.limits.idle, b.cancel)
	out.Body = b
	return out, nil
}

func validator(resp *http.Response, key string) string {
	v := resp.Header.Get(key)
	if len(v) > maxValidator {
		return ""
	}
	return v
}

func (b *body) accept(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("server answered %.60q", resp.Status)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return fmt.Errorf("server sent content encoding %.40q, which was not asked for", enc)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && (t == "text/html" || t == "application/xhtml+xml") {
		return errors.New("server sent a web page, not a list: perhaps a login page stands between")
	}
	if resp.ContentLength > b.req.Limit {
		return fmt.Errorf("server announces %d bytes, more than the limit of %d", resp.ContentLength, b.req.Limit)
	}
	return nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for {
		b.watch.Reset(b.limits.idle)
		n, err := b.resp.Body.Read(p)
		b.watch.Stop()
		b.have += int64(n)
		if b.have > b.req.Limit {
			return n, fmt.Errorf("answer is longer than the limit of %d bytes", b.req.Limit)
		}
		if took := time.Since(b.start); took > b.limits.grace && float64(b.have) < minRate*took.Seconds() {
			return n, fmt.Errorf("server is too slow: %d bytes in %s", b.have, took.Round(time.Second))
		}
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && (b.total < 0 || b.have == b.total) {
			return 0, io.EOF
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume takes the transfer up again where it broke, or says why it can't.
func (b *body) resume(cause error) error {
	if b.ctx.Err() != nil {
		if time.Since(b.start) >= b.limits.total {
			return fmt.Errorf("transfer took longer than %s", b.limits.total)
		}
		return errors.New("transfer was stopped, or the server sent nothing for too long")
	}
	if errors.Is(cause, io.ErrUnexpectedEOF) || errors.Is(cause, io.EOF) {
		cause = errors.New("transfer was cut off")
	}
	if b.validator == "" || b.have == 0 || b.resumes == maxResumes {
		return plain(cause)
	}
	b.resumes++
	_ = b.resp.Body.Close()
	resp, err := b.do(true)
	if err != nil {
		return fmt.Errorf("%w; taking it up again: %w", plain(cause), plain(err))
	}
	b.resp = resp
	want := fmt.Sprintf("bytes %d-", b.have)
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
		return fmt.Errorf("%w; the server does not take it up again, or the list changed meanwhile", plain(cause))
	}
	if _, size, ok := strings.Cut(resp.Header.Get("Content-Range"), "/"); ok && b.total >= 0 && size != "*" && size != strconv.FormatInt(b.total, 10) {
		return fmt.Errorf("%w; the list changed meanwhile", plain(cause))
	}
	return nil
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.watch.Stop()
	b.cancel()
	return b.resp.Body.Close()
}
