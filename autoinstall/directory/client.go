package directory

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/mooringlib/mooring/autoinstall"
)

// ClientConfig is what a [Client] is made of.
type ClientConfig struct {
	// URL is the directory's, https. Required.
	URL string
	// Token is manufacturing's. Required.
	Token Secret
	// Roots are trusted to certify the directory. nil trusts the CA whose
	// fingerprint is in the token, and no other.
	Roots *x509.CertPool
}

// Client publishes. It is safe for concurrent use.
type Client struct {
	cfg  ClientConfig
	base *url.URL
	http *http.Client
}

// NewClient checks cfg.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("directory: %.200q is not the https URL of a directory", cfg.URL)
	}
	if len(cfg.Token.secret) == 0 {
		return nil, errors.New("directory: Token is required")
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: cfg.Roots}
	if cfg.Roots == nil {
		if !cfg.Token.pinned {
			return nil, errors.New("directory: the token has no fingerprint of the directory: give the directory's CA certificate")
		}
		// The standard verification needs the CA beforehand; here it comes with
		// the handshake and is known by its fingerprint. VerifyConnection does
		// all that is switched off here, for that one CA.
		tc.InsecureSkipVerify = true
		tc.VerifyConnection = func(cs tls.ConnectionState) error { return cfg.Token.verifyPinned(cs, base.Hostname()) }
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{
		Timeout:   clientTimeout,
		Transport: &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the directory must not redirect")
		},
	}}, nil
}

// verifyPinned finds the pinned CA in the chain that the server sent and
// verifies the server's certificate and name with it. (The name in cs is empty
// for addresses.)
func (s Secret) verifyPinned(cs tls.ConnectionState, host string) error {
	for _, ca := range cs.PeerCertificates[1:] {
		if !s.matches(ca) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		return err
	}
	return errors.New("directory: the server is not the directory that the token is for")
}

// Publish sends a certificate or a public key, in PEM or DER. p.By is not sent:
// the directory knows the token. It returns the certificate that is published
// now, and whether this call published it.
func (c *Client) Publish(ctx context.Context, p Publication) (cert *x509.Certificate, published bool, err error) {
	if err := autoinstall.CheckSerial(p.Serial); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	u := c.base.JoinPath("certificates", p.Serial+".crt")
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), bytes.NewReader(p.Body))
	if err != nil {
		return nil, false, fmt.Errorf("directory: request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.cfg.Token.bare())
	if p.Replaces != "" {
		req.Header.Set("If-Match", `"`+p.Replaces+`"`)
		req.Header.Set(reasonHeader, p.Reason)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("directory: publish: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxBody))
	if err != nil {
		return nil, false, fmt.Errorf("directory: publish: %w", err)
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated {
		return nil, false, answerError(res.StatusCode, body)
	}
	block, _ := pem.Decode(body)
	if block == nil {
		return nil, false, errors.New("directory: the directory did not answer with a certificate")
	}
	cert, err = x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, false, fmt.Errorf("directory: the directory's answer: %w", err)
	}
	return cert, res.StatusCode == http.StatusCreated, nil
}

// answerError turns an answer back into our errors.
func answerError(status int, body []byte) error {
	text := fmt.Sprintf("%.300q", strings.TrimSpace(string(body)))
	for _, s := range statuses {
		if s.status == status && (s.err != ErrKeyInUse && s.err != ErrPublished || bytes.HasPrefix(body, []byte(s.err.Error()))) {
			return fmt.Errorf("%w: the directory says %s", s.err, text)
		}
	}
	return fmt.Errorf("directory: the directory answered %d: %s", status, text)
}
