package autoinstall

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mooringlib/mooring/autoinstall/tftp"
)

// Fetcher reads files. It returns the whole file or an error: one that matches
// [ErrNotFound] when the server has no such file, [ErrTooLarge] when it is
// larger than limit bytes. It is not called concurrently.
type Fetcher interface {
	Fetch(ctx context.Context, u *url.URL, resolvers []netip.Addr, limit int64) ([]byte, error)
}

// FetchConfig is what a [NetFetcher] is made of. The zero value is ready for
// use.
type FetchConfig struct {
	// TFTP is used for tftp URLs. Its MaxSize is set for each file.
	TFTP tftp.Config
	// TLS is used for https URLs; RootCAs is what the device trusts. nil
	// trusts the system's. It can't turn verification off.
	TLS *tls.Config
	// ClockFloor is a time that is certainly past, see Config.ClockFloor:
	// certificates of servers are checked at this time when the clock (of TLS,
	// if it has one) is behind it. Zero is no floor.
	ClockFloor time.Time
}

// NetFetcher reads tftp, http and https URLs.
type NetFetcher struct{ cfg FetchConfig }

// NewFetcher checks cfg.
func NewFetcher(cfg FetchConfig) (*NetFetcher, error) {
	if _, err := tftp.New(cfg.TFTP); err != nil {
		return nil, err
	}
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{}
	}
	cfg.TLS = cfg.TLS.Clone()
	if cfg.TLS.InsecureSkipVerify {
		return nil, errors.New("autoinstall: TLS.InsecureSkipVerify is set")
	}
	cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS12)
	clock := cfg.TLS.Time
	if clock == nil {
		clock = time.Now
	}
	cfg.TLS.Time = func() time.Time {
		if now := clock(); now.After(cfg.ClockFloor) {
			return now
		}
		return cfg.ClockFloor
	}
	return &NetFetcher{cfg}, nil
}

// Fetch implements [Fetcher].
func (f *NetFetcher) Fetch(ctx context.Context, u *url.URL, resolvers []netip.Addr, limit int64) ([]byte, error) {
	if limit <= 0 {
		return nil, errors.New("autoinstall: fetch without a limit")
	}
	r := resolver(resolvers)
	if u.Scheme == "tftp" {
		return f.fetchTFTP(ctx, u, r, limit)
	}
	return f.fetchHTTP(ctx, u, r, limit)
}

// resolver asks the name servers that came with the address, one after the
// other.
func resolver(servers []netip.Addr) *net.Resolver {
	if len(servers) == 0 {
		return net.DefaultResolver
	}
	servers = servers[:min(len(servers), maxResolvers)]
	next := 0
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		server := servers[next%len(servers)]
		next++
		return (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
}

func (f *NetFetcher) fetchTFTP(ctx context.Context, u *url.URL, r *net.Resolver, limit int64) ([]byte, error) {
	port := uint64(69)
	if p := u.Port(); p != "" {
		var err error
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return nil, fmt.Errorf("autoinstall: port %q is not a port", p)
		}
	}
	addrs, err := lookup(ctx, r, u.Hostname())
	if err != nil {
		return nil, err
	}
	cfg := f.cfg.TFTP
	cfg.MaxSize = limit
	client, err := tftp.New(cfg)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range addrs {
		var buf bytes.Buffer
		_, err := client.Get(ctx, netip.AddrPortFrom(addr, uint16(port)), strings.TrimPrefix(u.Path, "/"), &buf)
		switch {
		case err == nil:
			return buf.Bytes(), nil
		case errors.Is(err, tftp.ErrNotFound):
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		case errors.Is(err, tftp.ErrTooLarge):
			return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func lookup(ctx context.Context, r *net.Resolver, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	addrs, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("autoinstall: look up %q: %w", host, err)
	}
	return addrs[:min(len(addrs), 4)], nil
}

func (f *NetFetcher) fetchHTTP(ctx context.Context, u *url.URL, r *net.Resolver, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	transport := &http.Transport{
		// No proxy: the environment is not ours to read.
		DialContext:            (&net.Dialer{Resolver: r, Timeout: httpHeaderTimeout}).DialContext,
		TLSClientConfig:        f.cfg.TLS.Clone(),
		TLSHandshakeTimeout:    httpHeaderTimeout,
		ResponseHeaderTimeout:  httpHeaderTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a small answer must not become a large one
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("autoinstall: request: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("autoinstall: fetch: %w", err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("%w: the server answered %d", ErrNotFound, res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("autoinstall: fetch: the server answered %d", res.StatusCode)
	case res.ContentLength > limit:
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, res.ContentLength, limit)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("autoinstall: fetch: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: the limit is %d bytes", ErrTooLarge, limit)
	}
	return b, nil
}

// unanswered says whether nobody answered, so that it is of no use to ask the
// same server for another file. Servers that refuse a file have many ways to say
// so: TFTP error 0 or 2, HTTP 403 or 500.
func unanswered(err error) bool {
	var answer *tftp.ServerError
	if errors.Is(err, ErrNotFound) || errors.As(err, &answer) {
		return false // one of the server's addresses did
	}
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	return errors.Is(err, tftp.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &dns) ||
		errors.As(err, &op) && op.Op == "dial" || errors.As(err, &timeout) && timeout.Timeout()
}

// checkRedirect follows within the same host and scheme only: a redirect must
// not lead a device somewhere that DHCP did not name, nor from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return errors.New("redirect to another server")
	}
	return nil
}
