package main

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

const maxConfigBytes = 1 << 20

// fileConfig is the configuration file.
type fileConfig struct {
	AccessMode    string          `json:"access-mode"`
	Sources       []fileSource    `json:"sources"`
	TrustedKeys   []string        `json:"trusted-keys"`
	State         string          `json:"state"`
	EnableTimeout *bool           `json:"enable-timeout"`
	Timeout       json.RawMessage `json:"timeout"`
	Attempts      json.RawMessage `json:"attempts"`
	RetryDelay    json.RawMessage `json:"maximum-retry-delay"`
	MaxBandwidth  json.RawMessage `json:"max-bandwidth"`
	// What follows is beyond the product's configuration.
	Connections int             `json:"max-connections"`
	AtOnce      int             `json:"max-sources"`
	Stall       json.RawMessage `json:"stall-timeout"`
	PeerGrace   json.RawMessage `json:"peer-grace"`
}

type fileSource struct {
	Kind string `json:"kind"`
	URL  string `json:"url"`
	// CA is a PEM file with the roots for https; the system's when empty.
	CA string `json:"ca"`
}

// common are the flags of every command that reads a configuration.
type common struct {
	config string
	lab    bool
}

func (c *common) register(fs *flag.FlagSet) {
	fs.StringVar(&c.config, "config", "", "configuration `file` (required)")
	fs.BoolVar(&c.lab, "lab", false, "accept durations in Go syntax (\"1500ms\") and below the product's minimum, for tests")
}

// load reads the configuration and reports everything that is wrong with it at
// once.
func (c common) load() (download.Config, error) {
	var out download.Config
	if c.config == "" {
		return out, usagef("-config is missing: name the configuration file")
	}
	f, err := os.Open(c.config)
	if err != nil {
		return out, usagef("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return out, usagef("config %q: %w", c.config, err)
	}
	if len(data) > maxConfigBytes {
		return out, usagef("config %q: more than %d bytes", c.config, maxConfigBytes)
	}
	out, err = parseConfig(data, filepath.Dir(c.config), c.lab)
	if err != nil {
		return out, usagef("config %q: %w", c.config, err)
	}
	return out, nil
}

// parseConfig reads a configuration; relative names are relative to dir.
func parseConfig(data []byte, dir string, lab bool) (download.Config, error) {
	var out download.Config
	var fc fileConfig
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&fc); err != nil {
		return out, err
	}
	if dec.More() {
		return out, errors.New("data after the end of the configuration")
	}
	var errs []error
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	policy, err := fc.policy(lab)
	keep(err)
	out.Policy, out.Lab = &policy, lab
	if fc.State == "" {
		keep(errors.New("state: name a directory"))
	} else {
		out.StateDir = inDir(dir, fc.State)
	}
	out.Trust, err = fc.trust(dir)
	keep(err)
	out.Pool, err = fc.pool(dir, policy.MaxBandwidth)
	keep(err)
	out.Tuning.MaxConnections, out.Tuning.MaxSources = fc.Connections, fc.AtOnce
	if fc.Connections < 0 || fc.Connections > 64 {
		keep(fmt.Errorf("max-connections %d: want 1 to 64", fc.Connections))
	}
	if fc.AtOnce < 0 || fc.AtOnce > 64 {
		keep(fmt.Errorf("max-sources %d: want 1 to 64", fc.AtOnce))
	}
	out.Tuning.StallTimeout, err = duration("stall-timeout", fc.Stall, 0, span{1, 3600}, lab)
	keep(err)
	out.Tuning.PeerGrace, err = duration("peer-grace", fc.PeerGrace, 0, span{1, 86400}, lab)
	keep(err)
	return out, errors.Join(errs...)
}

func (fc *fileConfig) policy(lab bool) (download.Policy, error) {
	p := download.DefaultPolicy()
	var errs []error
	var err error
	if fc.EnableTimeout != nil {
		p.EnableTimeout = *fc.EnableTimeout
	}
	p.Timeout, err = duration("timeout", fc.Timeout, p.Timeout, span{1800, 604800}, lab)
	errs = append(errs, err)
	p.MaxRetryDelay, err = duration("maximum-retry-delay", fc.RetryDelay, p.MaxRetryDelay, span{0, 86400}, lab)
	errs = append(errs, err)
	if fc.Attempts != nil {
		n, ok := number(fc.Attempts, 1_000_000)
		if !ok {
			errs = append(errs, fmt.Errorf("attempts %.40s: want 0 to 1000000 (0 is no limit)", fc.Attempts))
		}
		p.Attempts = int(n)
	}
	if fc.MaxBandwidth != nil {
		p.MaxBandwidth, err = bandwidth(unquote(fc.MaxBandwidth))
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

// span is a range in seconds.
type span struct{ low, high int64 }

// duration reads a number of seconds. In the lab it also reads Go syntax, and
// takes less than the product's minimum.
func duration(name string, raw json.RawMessage, missing time.Duration, r span, lab bool) (time.Duration, error) {
	if raw == nil {
		return missing, nil
	}
	bad := fmt.Errorf("%s %.40s: want %d to %d seconds", name, raw, r.low, r.high)
	if n, ok := number(raw, r.high); ok {
		if n < r.low && (!lab || n == 0) {
			return missing, bad
		}
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(unquote(raw))
	switch {
	case err != nil, d < 0, d > time.Duration(r.high)*time.Second, d == 0 && r.low > 0:
		return missing, bad
	case !lab:
		return missing, fmt.Errorf("%w (a duration such as %.40s needs -lab)", bad, raw)
	}
	return d, nil
}

// number reads a decimal, as a JSON number or in quotes.
func number(raw json.RawMessage, high int64) (int64, bool) {
	n, err := strconv.ParseInt(unquote(raw), 10, 64)
	return n, err == nil && n >= 0 && n <= high
}

func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// bandwidth reads "unlimited" or bits per second.
func bandwidth(s string) (int64, error) {
	if s == "unlimited" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > 999_999_999_999 {
		return 0, fmt.Errorf("max-bandwidth %.40q: want unlimited, or 1 to 999999999999 bits per second", s)
	}
	return n, nil
}

func inDir(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

func (fc *fileConfig) trust(dir string) (*repo.Verifier, error) {
	if len(fc.TrustedKeys) == 0 {
		return nil, errors.New("trusted-keys: name at least one PEM public key file; verification cannot be turned off")
	}
	var keys []crypto.PublicKey
	for _, name := range fc.TrustedKeys {
		data, err := os.ReadFile(inDir(dir, name))
		if err != nil {
			return nil, fmt.Errorf("trusted-keys: %w", err)
		}
		k, err := repo.ParsePublicKey(data)
		if err != nil {
			return nil, fmt.Errorf("trusted-keys: %q: %w", name, err)
		}
		keys = append(keys, k)
	}
	return repo.NewVerifier(keys...)
}

func (fc *fileConfig) pool(dir string, bits int64) (download.SourcePool, error) {
	var errs []error
	mode, err := download.ParseAccessMode(fc.AccessMode)
	errs = append(errs, err)
	if len(fc.Sources) == 0 {
		errs = append(errs, errors.New("sources: name at least one"))
	}
	var sources []download.Source
	seen := map[string]int{}
	for i, s := range fc.Sources {
		kind, err := download.ParseKind(s.Kind)
		if err != nil {
			errs = append(errs, fmt.Errorf("sources: entry %d: %w", i+1, err))
			continue
		}
		f, err := s.fetcher(dir, bits)
		if err != nil {
			errs = append(errs, fmt.Errorf("sources: entry %d: %w", i+1, err))
			continue
		}
		name := s.Kind
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s#%d", s.Kind, seen[name])
		}
		sources = append(sources, download.Source{Name: name, Kind: kind, Fetcher: f})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return download.NewPool(mode, sources...)
}

func (s fileSource) fetcher(dir string, bits int64) (download.Fetcher, error) {
	if u, err := url.Parse(s.URL); err == nil && u.Scheme == "file" {
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("url %.200q: want file:///DIRECTORY", s.URL)
		}
		return source.NewDir(u.Path)
	}
	cfg := source.HTTPConfig{URL: s.URL, MaxBandwidth: bits}
	if s.CA != "" {
		pem, err := os.ReadFile(inDir(dir, s.CA))
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca %q: no PEM certificate in it", s.CA)
		}
		cfg.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	f, err := source.NewHTTP(cfg)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "source: "))
	}
	return f, nil
}
