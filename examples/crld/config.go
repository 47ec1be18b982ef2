package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mooringlib/mooring/crl"
)

// maxInput bounds configuration and certificate files in bytes.
const maxInput = 16 << 20

// config is the configuration file.
type config struct {
	URLs            []string `json:"urls"`
	Issuers         []string `json:"issuers"`
	Certificates    []string `json:"certificates"`
	PollingInterval *float64 `json:"polling-interval"`
	BackoffInterval *float64 `json:"backoff-interval"`
	Directory       string   `json:"directory"`
	Listen          string   `json:"listen"`
	Fail            string   `json:"fail"`

	Grace           *float64 `json:"grace"`
	AllowPrivate    bool     `json:"allow-private"`
	AllowUnnumbered bool     `json:"allow-unnumbered"`
	MaxListBytes    int64    `json:"max-list-bytes"`
	MaxEntries      int      `json:"max-entries"`
	Node            string   `json:"node"`

	base string // what files are relative to
}

func readConfig(path string) (*config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	c := &config{base: filepath.Dir(path)}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("configuration %q: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration %q: something follows behind the object", path)
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("%q is longer than %d bytes", path, maxInput)
	}
	return data, err
}

func (c *config) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.base, name)
}

// manager turns the configuration into that of the library.
func (c *config) manager() (crl.Config, error) {
	out := crl.Config{
		URLs: c.URLs, AllowPrivate: c.AllowPrivate, AllowUnnumbered: c.AllowUnnumbered,
		MaxListBytes: c.MaxListBytes, MaxEntries: c.MaxEntries, Node: c.Node,
	}
	if c.Directory != "" {
		out.Directory = c.path(c.Directory)
	}
	var errs []error
	for _, f := range c.Issuers {
		certs, err := readCertificates(c.path(f))
		errs = append(errs, err)
		out.Issuers = append(out.Issuers, certs...)
	}
	for _, f := range c.Certificates {
		certs, err := readCertificates(c.path(f))
		errs = append(errs, err)
		if len(certs) > 0 {
			out.Certificates = append(out.Certificates, certs[0])
			out.Intermediates = append(out.Intermediates, certs[1:]...)
		}
	}
	interval := func(field string, v *float64, unit time.Duration) time.Duration {
		if v == nil {
			return 0
		}
		if !(*v > 0) || *v > math.MaxInt64/float64(unit) {
			errs = append(errs, fmt.Errorf("%q is %v: it must be above 0", field, *v))
			return 0
		}
		return time.Duration(*v * float64(unit))
	}
	out.PollingInterval = interval("polling-interval", c.PollingInterval, time.Hour)
	out.BackoffInterval = interval("backoff-interval", c.BackoffInterval, time.Second)
	if c.Grace != nil && *c.Grace == 0 {
		out.Grace = -1
	} else {
		out.Grace = interval("grace", c.Grace, time.Hour)
	}
	switch c.Fail {
	case "", "hard":
	case "soft":
		out.Fail = crl.FailSoft
	default:
		errs = append(errs, fmt.Errorf("\"fail\" is %.40q: it must be \"soft\" or \"hard\"", c.Fail))
	}
	return out, errors.Join(errs...)
}

// readCertificates reads a PEM file, or a single certificate in DER.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 && data[0] == 0x30 {
		cert, err := crl.ParseCertificate(data)
		if err != nil {
			return nil, fmt.Errorf("certificate file %q: %w", path, err)
		}
		return []*x509.Certificate{cert}, nil
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, fmt.Errorf("certificate file %q holds a private key: take it out", path)
		}
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			continue
		}
		cert, err := crl.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in %q: %w", len(out)+1, path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no certificate in %q: it must be PEM or DER", path)
	}
	return out, nil
}

// line puts an error on one line.
func line(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
