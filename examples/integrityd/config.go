package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmdev"
)

const maxConfig = 1 << 20

// config is the configuration file.
type config struct {
	TPM         string       `json:"tpm"`
	StateDir    string       `json:"state_dir"`
	Directories []string     `json:"directories"`
	Mode        string       `json:"mode"`
	Policy      policyConfig `json:"policy"`
	Console     list         `json:"console"`
	// Wrapper is "sealed" or "oaep", Parent "rsa" or "ecc".
	Wrapper string `json:"wrapper"`
	Parent  string `json:"parent"`
	// NetworkFlag is a file that is there while networking is allowed.
	NetworkFlag     string   `json:"network_flag"`
	FirstBootEnable bool     `json:"first_boot_enable"`
	RetryMin        duration `json:"retry_min"`
	RetryMax        duration `json:"retry_max"`
	WatchInterval   duration `json:"watch_interval"`
}

// policyConfig is a boot policy: a word, or an object.
type policyConfig struct {
	Type string `json:"type"`
	// PCRs and Bank are for "literal".
	PCRs []uint         `json:"pcrs"`
	Bank pcrpolicy.Bank `json:"bank"`
	// File, VendorKey, Reference and Minimum are for "signed". Policies with a
	// number below Minimum are revoked after the next good start.
	File      string `json:"file"`
	VendorKey string `json:"vendor_key"`
	Reference string `json:"reference"`
	Minimum   uint64 `json:"minimum"`
	// CounterIndex and AnchorIndex are NV indexes, for products that use the
	// usual ones for something else, or change the vendor's key.
	CounterIndex uint32 `json:"counter_index"`
	AnchorIndex  uint32 `json:"anchor_index"`
	// CapPCR is extended after the last directory is open, unless NoCap.
	CapPCR uint `json:"cap_pcr"`
	NoCap  bool `json:"no_cap"`
}

// defaultPCRs are firmware, option ROMs, boot loader, secure boot policy, and
// the register that the cap extends.
var defaultPCRs = []uint{0, 2, 4, 7, 12}

func (p *policyConfig) UnmarshalJSON(data []byte) error {
	var word string
	if json.Unmarshal(data, &word) != nil {
		type object policyConfig
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		return dec.Decode((*object)(p))
	}
	kind, pcrs, _ := strings.Cut(word, ":")
	p.Type = kind
	if pcrs == "" {
		return nil
	}
	var err error
	p.PCRs, err = parsePCRs(pcrs)
	return err
}

func parsePCRs(text string) ([]uint, error) {
	var out []uint
	for _, f := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(f), 10, 8)
		if err != nil {
			return nil, fmt.Errorf("%.64q is not a list of PCR numbers such as 0,2,7", text)
		}
		out = append(out, uint(n))
	}
	return out, nil
}

// list is a string or a list of strings.
type list []string

func (l *list) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = nil
		if one != "" {
			*l = list{one}
		}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// duration is written as "5s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

func readConfig(path string) (*config, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	c := new(config)
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("configuration %q: %w", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration %q: more after its end", path)
	}
	if c.TPM == "" {
		return nil, fmt.Errorf(`configuration %q: "tpm" is missing: %s`, path, tpmdev.Help)
	}
	if !filepath.IsAbs(c.StateDir) {
		return nil, fmt.Errorf(`configuration %q: "state_dir" is %q and must be an absolute path`, path, c.StateDir)
	}
	c.StateDir = filepath.Clean(c.StateDir)
	for i, d := range c.Directories {
		c.Directories[i] = filepath.Clean(d)
	}
	if c.NetworkFlag == "" {
		c.NetworkFlag = filepath.Join(c.StateDir, "network-allowed")
	}
	return c, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%q is longer than %d bytes", path, maxConfig)
	}
	return data, err
}

func (c *config) wrapperConfig(tpm *tpmHolder) (tpmwrap.Config, error) {
	out := tpmwrap.Config{Open: tpm.open}
	switch c.Parent {
	case "", "rsa":
	case "ecc":
		out.Parent = tpmwrap.ParentECCP256
	default:
		return out, fmt.Errorf(`configuration: "parent" is rsa or ecc, not %.32q`, c.Parent)
	}
	p := c.Policy
	out.AnchorIndex, out.Policy.CounterIndex = p.AnchorIndex, p.CounterIndex
	out.Policy.Bank, out.Policy.CapPCR, out.Policy.NoCap = p.Bank, p.CapPCR, p.NoCap
	switch p.Type {
	case "", "none":
	case "literal":
		if out.Policy.PCRs = p.PCRs; len(p.PCRs) == 0 {
			out.Policy.PCRs = defaultPCRs
		}
	case "signed":
		if p.File == "" || p.VendorKey == "" || p.Reference == "" {
			return out, errors.New(`configuration: a signed policy needs "file", "vendor_key" and "reference"`)
		}
		vendor, err := readPublicKey(p.VendorKey)
		if err != nil {
			return out, err
		}
		out.Policy.Vendor, out.Policy.Reference = vendor, p.Reference
		out.Policy.Document = func() ([]byte, error) { return readLimited(p.File) }
	default:
		return out, fmt.Errorf(`configuration: "policy" is none, literal, or an object with type none, literal or signed, not %.32q`, p.Type)
	}
	return out, nil
}

// wrapper is what both kinds of TPM wrappers are.
type wrapper interface {
	integrity.KeyWrapper
	Revoke(ctx context.Context, number uint64) error
	InstallPolicy(ctx context.Context, path string, data []byte) error
}

func (c *config) wrapper(tpm *tpmHolder) (wrapper, error) {
	cfg, err := c.wrapperConfig(tpm)
	if err != nil {
		return nil, err
	}
	switch c.Wrapper {
	case "", "sealed":
		return tpmwrap.NewSealed(cfg)
	case "oaep":
		return tpmwrap.NewOAEP(tpmwrap.OAEPConfig{Config: cfg})
	}
	return nil, fmt.Errorf(`configuration: "wrapper" is sealed or oaep, not %.32q`, c.Wrapper)
}

func readPublicKey(path string) (crypto.PublicKey, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%q is not a PEM file with a PUBLIC KEY (openssl pkey -pubout makes one)", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return key, nil
}

// tpmHolder opens the TPM when it is first needed. The simulator is a process of
// its own, whose PCRs are gone when it ends, so it is kept until the end.
type tpmHolder struct {
	spec, dir string

	mu  sync.Mutex
	tpm transport.TPMCloser
}

func (c *config) holder() *tpmHolder {
	return &tpmHolder{spec: c.TPM, dir: filepath.Join(c.StateDir, "tpm-simulator")}
}

type keptOpen struct{ transport.TPM }

func (keptOpen) Close() error { return nil }

func (h *tpmHolder) open(context.Context) (transport.TPMCloser, error) {
	if !strings.HasPrefix(h.spec, tpmdev.Simulator) {
		return tpmdev.Open(h.spec, h.dir)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tpm == nil {
		tpm, err := tpmdev.Open(h.spec, h.dir)
		if err != nil {
			return nil, err
		}
		h.tpm = tpm
	}
	return keptOpen{h.tpm}, nil
}

func (h *tpmHolder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tpm != nil {
		_ = h.tpm.Close()
		h.tpm = nil
	}
}

// system is everything that a command works on.
type system struct {
	config  *config
	tpm     *tpmHolder
	wrapper wrapper
	handler *integrity.Handler
}

func open(path string, stderr io.Writer, logs bool) (*system, error) {
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	s := &system{config: c, tpm: c.holder()}
	if s.wrapper, err = c.wrapper(s.tpm); err != nil {
		return nil, err
	}
	cfg := integrity.Config{
		Wrapper: s.wrapper, StateDir: c.StateDir, Directories: c.Directories, Mode: integrity.Mode(c.Mode),
		Emergency: newEmergency(c.Console, stderr), Network: flagGate{c.NetworkFlag},
		Notify:           integrity.SystemdNotify(os.Getenv("NOTIFY_SOCKET")),
		EnableOnFirstRun: c.FirstBootEnable,
		RetryMin:         time.Duration(c.RetryMin), RetryMax: time.Duration(c.RetryMax), WatchInterval: time.Duration(c.WatchInterval),
	}
	if logs {
		cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
		notify := cfg.Notify
		cfg.Notify = func(state string) error {
			if strings.HasPrefix(state, "READY=1") {
				if err := s.revoke(context.Background()); err != nil {
					cfg.Logger.Warn("older policies were not revoked", slog.Any("error", err))
				}
			}
			return notify(state)
		}
	}
	if s.handler, err = integrity.New(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *system) close() { s.tpm.close() }

// revoke revokes what the configuration says, once the newer policy has worked.
func (s *system) revoke(ctx context.Context) error {
	if s.config.Policy.Minimum == 0 || s.config.Policy.Type != "signed" {
		return nil
	}
	return s.wrapper.Revoke(ctx, s.config.Policy.Minimum)
}

// flagGate allows networking by a file that holds the identity of this boot, so
// that one that an earlier boot left says nothing.
type flagGate struct{ path string }

func (g flagGate) Block(context.Context, string) error {
	var w durable.Writer
	if _, err := os.Stat(filepath.Dir(g.path)); err != nil {
		return nil
	}
	return w.Remove(g.path)
}

func (g flagGate) Allow(context.Context) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = []byte("unknown boot\n")
	}
	var w durable.Writer
	return w.WriteFile(g.path, boot, 0o644)
}

// emergency writes to the consoles and to standard error, where journald gives
// the lines the level that they carry in front.
type emergency struct {
	consoles integrity.Consoles
	stderr   io.Writer
	prefix   string
}

func newEmergency(consoles list, stderr io.Writer) emergency {
	e := emergency{stderr: stderr}
	if len(consoles) > 0 {
		e.consoles = integrity.Consoles{KernelLog: "-", Paths: consoles}
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		e.prefix = "<0>"
	}
	return e
}

func (e emergency) Emergency(ctx context.Context, text string) error {
	for line := range strings.Lines(text) {
		if _, err := io.WriteString(e.stderr, e.prefix+line); err != nil {
			break
		}
	}
	return e.consoles.Emergency(ctx, text)
}
