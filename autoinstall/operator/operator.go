package operator

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mooringlib/mooring/autoinstall/internal/serial"
	"github.com/mooringlib/mooring/internal/durable"
)

// Config configures an Operator.
type Config struct {
	// URL is the vendor's directory, such as https://keyserv.example.net. Certificates are below it, at
	// certificates/SERIAL.crt. It has to be https and to hold neither user nor query. Required for Fetch and Replace.
	URL string
	// Roots authenticate the directory. The system's roots are not used. Required for Fetch and Replace.
	Roots *x509.CertPool
	// Dir is where certificates are kept. It is made when it is not there. Required.
	Dir string
	// Timeout bounds one Fetch. Default 30 seconds.
	Timeout time.Duration
	// Logger gets what happens; nil is silent.
	Logger *slog.Logger

	// writer is replaced in tests.
	writer durable.Writer
}

// Device is a device whose certificate is kept.
type Device struct {
	Serial string
	// Certificate holds the public key to encrypt to. Nothing else in it means anything.
	Certificate *x509.Certificate
	// File is where the certificate is kept.
	File string
	// New says that this call began to keep it.
	New bool
}

// Fingerprint identifies the device's key, see Fingerprint.
func (d *Device) Fingerprint() string { return Fingerprint(d.Certificate) }

// Fingerprint is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo in DER), in lower-case hex. It stays
// the same when the same key is put into another certificate.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Operator fetches and keeps certificates of devices.
type Operator struct {
	cfg    Config
	base   *url.URL
	client *http.Client
	log    *slog.Logger
}

// New checks cfg and makes an Operator. It touches neither network nor disk.
func New(cfg Config) (*Operator, error) {
	o := &Operator{cfg: cfg, log: cfg.Logger}
	var bad []error
	if cfg.Dir == "" {
		bad = append(bad, errors.New("operator: Config.Dir is missing"))
	}
	if cfg.Timeout < 0 {
		bad = append(bad, fmt.Errorf("operator: Config.Timeout is negative: %v", cfg.Timeout))
	}
	if cfg.URL != "" {
		var err error
		if o.base, err = checkURL(cfg.URL); err != nil {
			bad = append(bad, err)
		}
		if cfg.Roots == nil {
			bad = append(bad, errors.New("operator: Config.Roots is missing: without it the directory cannot be authenticated"))
		}
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	if o.cfg.Timeout == 0 {
		o.cfg.Timeout = defaultTimeout
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	o.client = &http.Client{
		// The environment's proxy is not asked: a library reads no environment.
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
		},
		CheckRedirect: checkRedirect,
	}
	return o, nil
}

func checkURL(text string) (*url.URL, error) {
	if len(text) > maxURL {
		return nil, fmt.Errorf("operator: Config.URL is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("operator: Config.URL %s is no URL of a server", quote(text))
	}
	if u.Scheme != "https" {
		return nil, fmt.Errorf("operator: Config.URL %s is not https: the directory has to be authenticated", quote(text))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// The text is not repeated: it may hold a password.
		return nil, errors.New("operator: Config.URL holds a user, a query or a fragment")
	}
	return u, nil
}

// checkRedirect allows redirects within the directory alone: whoever else is named was not chosen by the operator.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if first := via[0].URL; req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return fmt.Errorf("redirect to another server, %s", quote(req.URL.Scheme+"://"+req.URL.Host))
	}
	return nil
}

// Fetch asks the directory for a device's certificate and keeps it. When one is kept already, the directory has to name
// the same key: another one is refused with a *ChangedError. The same key in another certificate is fine, and the one
// that is kept stays. Errors: ErrSerial, ErrNotPublished, ErrUnavailable, ErrAnswer, ErrKept, *ChangedError.
func (o *Operator) Fetch(ctx context.Context, serialNumber string) (*Device, error) {
	cert, err := o.download(ctx, serialNumber)
	if err != nil {
		return nil, err
	}
	return o.keep(serialNumber, cert)
}

// Replace asks the directory for a device's certificate and keeps it in place of the one that is kept. fingerprint is
// that of the new key, see Fingerprint; the caller has confirmed it, with the vendor or at the device. It is for a
// device whose key was replaced, and a directory that offers yet another key is refused with a *ChangedError.
func (o *Operator) Replace(ctx context.Context, serialNumber, fingerprint string) (*Device, error) {
	want := strings.ToLower(strings.ReplaceAll(fingerprint, ":", ""))
	if b, err := hex.DecodeString(want); err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("operator: fingerprint %s: want %d hex digits", quote(fingerprint), 2*sha256.Size)
	}
	cert, err := o.download(ctx, serialNumber)
	if err != nil {
		return nil, err
	}
	if got := Fingerprint(cert); got != want {
		return nil, &ChangedError{Serial: serialNumber, Kept: want, Offered: got}
	}
	return o.replace(serialNumber, cert)
}

// download gets a certificate from the directory.
func (o *Operator) download(ctx context.Context, serialNumber string) (*x509.Certificate, error) {
	if err := checkSerial(serialNumber); err != nil {
		return nil, err
	}
	if o.base == nil {
		return nil, fmt.Errorf("%w: Config.URL is missing", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	where := o.base.JoinPath("certificates", serialNumber+".crt").String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	rsp, err := o.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = rsp.Body.Close() }()
	switch {
	case rsp.StatusCode == http.StatusNotFound || rsp.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("%w: %q", ErrNotPublished, serialNumber)
	case rsp.StatusCode == http.StatusTooManyRequests || rsp.StatusCode == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w: it asks to come back later (%s, Retry-After %s)", ErrUnavailable,
			quote(rsp.Status), quote(rsp.Header.Get("Retry-After")))
	case rsp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: it answered %s", ErrUnavailable, quote(rsp.Status))
	}
	body, err := io.ReadAll(io.LimitReader(rsp.Body, maxCertificate+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading the answer: %w", ErrUnavailable, err)
	}
	cert, err := ParseCertificate(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return cert, nil
}

// ParseCertificate reads the one certificate that a file holds, in PEM or DER, and makes sure that its key can be
// encrypted to: RSA with 2048 to 16384 bits, or P-256, P-384 or P-521.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	if len(data) > maxCertificate {
		return nil, fmt.Errorf("operator: certificate: larger than %d bytes", maxCertificate)
	}
	der := data
	if block, rest := pem.Decode(data); block != nil {
		if next, _ := pem.Decode(rest); block.Type != "CERTIFICATE" || next != nil {
			return nil, errors.New("operator: certificate: the file has to hold one certificate and nothing else")
		}
		der = block.Bytes
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("operator: certificate: %w", err)
	}
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 16384 {
			return nil, fmt.Errorf("operator: certificate: RSA key of %d bits, want 2048 to 16384", bits)
		}
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 {
			return nil, fmt.Errorf("operator: certificate: curve %s, want P-256, P-384 or P-521", key.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("operator: certificate: a key of type %v cannot be encrypted to", cert.PublicKeyAlgorithm)
	}
	return cert, nil
}

func checkSerial(s string) error {
	if err := serial.Check(s); err != nil {
		return fmt.Errorf("%w: %w", ErrSerial, err)
	}
	return nil
}
