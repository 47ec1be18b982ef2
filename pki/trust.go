package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki/internal/pemtext"
	"github.com/mooringlib/mooring/pki/verify"
)

// trustDir is where bundles lie.
const trustDir = "trust"

// modePrefix begins the first line of a bundle.
const modePrefix = "# validation-mode: "

// Mode says what happens when a bundle with issues is configured. It has no part
// in what is enforced at run time.
type Mode string

// The modes.
const (
	// Strict refuses the bundle. It is the default.
	Strict Mode = "strict"
	// Warn takes it and reports every issue.
	Warn Mode = "warn"
)

// Bundle is a set of trusted authorities under a name.
type Bundle struct {
	Name string `json:"name"`
	Mode Mode   `json:"validation_mode"`
	// Certificates are as they stand in the bundle.
	Certificates []*x509.Certificate `json:"-"`
	// Subjects names them.
	Subjects []string `json:"subjects"`
	// Issues is what is wrong with them, at the time of the report.
	Issues []verify.Issue `json:"issues,omitempty"`
}

// bundle is a Bundle that was loaded.
type bundle struct {
	stamp string
	mode  Mode
	trust *verify.Trust
	// problem says why the file is not in use.
	problem string
}

// AddTrust makes the authorities in text trusted under a name: roots and those
// below them, in any order. It replaces a bundle that has the name. Under
// [Strict] any issue refuses it with a [*verify.Failure]; under [Warn] it is taken
// and the issues are in the answer. What does not parse, or holds a private key,
// is refused under both.
func (m *Manager) AddTrust(ctx context.Context, name string, text []byte, mode Mode) (*Bundle, error) {
	if mode == "" {
		mode = Strict
	}
	b, err := m.addTrust(ctx, name, text, mode)
	detail := map[string]any{"name": capped(name), "validation_mode": capped(string(mode))}
	if b != nil {
		detail["subjects"] = b.Subjects
		detail["issues"] = b.Issues
	}
	m.audit(ctx, "system.add_trusted_ca", "Added trusted CA certificates: "+capped(name), err, detail)
	return b, err
}

func (m *Manager) addTrust(ctx context.Context, name string, text []byte, mode Mode) (*Bundle, error) {
	var e FieldErrors
	e.name(name)
	if mode != Strict && mode != Warn {
		e.add("validation_mode", "%.40q is not strict or warn", mode)
	}
	if err := e.err(); err != nil {
		return nil, err
	}
	certs, fatal := parseBundle(text)
	b := newBundle(name, mode, certs)
	if verify.Failed(fatal) != nil {
		b.Issues = fatal
		return b, verify.Failed(fatal)
	}
	b.Issues = checkBundle(certs, m.now())
	if err := verify.Failed(b.Issues); err != nil && mode == Strict {
		return b, err
	}
	encoded := append([]byte(modePrefix+string(mode)+"\n"), encodeCertificates(certs)...)
	return b, m.write(ctx, func() error {
		m.mu.RLock()
		_, there := m.bundles[name]
		count := len(m.bundles)
		m.mu.RUnlock()
		if !there && count >= maxBundles {
			return fmt.Errorf("pki: trust %q: there are %d bundles already; remove one first", name, count)
		}
		if err := m.files.Writer.WriteFile(m.trustPath(name), encoded, 0o644); err != nil {
			return fmt.Errorf("pki: trust %q: %w", name, err)
		}
		return m.loadTrust(ctx)
	})
}

func newBundle(name string, mode Mode, certs []*x509.Certificate) *Bundle {
	b := &Bundle{Name: name, Mode: mode, Certificates: certs, Subjects: []string{}}
	for _, c := range certs {
		b.Subjects = append(b.Subjects, verify.Subject(c))
	}
	return b
}

// RemoveTrust takes the trust in a bundle away.
func (m *Manager) RemoveTrust(ctx context.Context, name string) error {
	err := checkName(name)
	if err == nil {
		err = m.write(ctx, func() error {
			if _, err := os.Stat(m.trustPath(name)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: there is no bundle %q", ErrNotFound, name)
			}
			if err := m.files.Writer.Remove(m.trustPath(name)); err != nil {
				return fmt.Errorf("pki: trust %q: %w", name, err)
			}
			return m.loadTrust(ctx)
		})
	}
	m.audit(ctx, "system.remove_trusted_ca", "Removed trusted CA certificates: "+capped(name), err, map[string]any{"name": capped(name)})
	return err
}

// Trusted returns the bundles, sorted by name, with what is wrong with them now.
func (m *Manager) Trusted() []Bundle {
	now := m.now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := []Bundle{}
	for name, b := range m.bundles {
		t := newBundle(name, b.mode, b.trust.Certificates())
		if b.problem != "" {
			t.Issues = []verify.Issue{{Class: verify.Malformed, Text: b.problem}}
		} else {
			t.Issues = checkBundle(t.Certificates, now)
		}
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Bundle) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (m *Manager) trustPath(name string) string {
	return filepath.Join(m.cfg.Dir, trustDir, name+".pem")
}

// parseBundle reads a bundle. What it finds refuses the bundle in any mode.
func parseBundle(text []byte) ([]*x509.Certificate, []verify.Issue) {
	if len(text) > maxBundle {
		return nil, []verify.Issue{{Class: verify.TooLarge, Text: fmt.Sprintf("%d bytes are more than %d", len(text), maxBundle)}}
	}
	var issues []verify.Issue
	if form, ok := pemtext.FindPrivateKey(text); ok {
		issues = append(issues, verify.Issue{Class: verify.PrivateKey, Text: form + " stands among the certificates; treat it as disclosed"})
	}
	certs, more := parseCertificates(text, maxBundleCerts)
	return certs, append(issues, more...)
}

// checkBundle checks every authority by itself and that it has a path to a root
// of the bundle.
func checkBundle(certs []*x509.Certificate, now time.Time) []verify.Issue {
	var issues []verify.Issue
	trust := verify.NewTrust(certs)
	seen := map[string]bool{}
	for _, c := range certs {
		if seen[string(c.Raw)] {
			issues = append(issues, verify.Issue{Class: verify.Malformed, Subject: verify.Subject(c), Text: "it is there twice", Warning: true})
			continue
		}
		seen[string(c.Raw)] = true
		issues = append(issues, verify.CheckCA(c, now)...)
		if !trust.Anchored(c, now) {
			issues = append(issues, verify.Issue{Class: verify.Untrusted, Subject: verify.Subject(c), Text: "no path to a self-signed root in the bundle; add all certificates up to the root"})
		}
	}
	return issues
}

// surplusStamp is the stamp of a bundle that is one too many.
const surplusStamp = "surplus"

// loadTrust reads the bundles that have changed. It needs op.
func (m *Manager) loadTrust(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(m.cfg.Dir, trustDir))
	if err != nil {
		return fmt.Errorf("pki: trust: %w", err)
	}
	m.mu.RLock()
	old := m.bundles
	m.mu.RUnlock()
	bundles := map[string]*bundle{}
	changed := false
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".pem")
		if !ok || checkName(name) != nil {
			continue
		}
		stamp := fileStamp(m.trustPath(name))
		surplus := len(bundles) >= maxBundles
		if surplus {
			stamp = surplusStamp
		}
		if b := old[name]; b != nil && b.stamp == stamp {
			bundles[name] = b
			continue
		}
		if surplus {
			// Put there by hand. It is told and not used, so that the rest
			// works on and it can be removed.
			bundles[name] = &bundle{stamp: stamp, mode: Strict, trust: verify.NewTrust(nil), problem: fmt.Sprintf("there are more than %d bundles", maxBundles)}
		} else {
			bundles[name] = m.readBundle(name, stamp)
		}
		changed = true
		m.cfg.Logger.InfoContext(ctx, "trust bundle loaded", "name", name, "problem", bundles[name].problem)
	}
	if !changed && len(bundles) == len(old) {
		return nil
	}
	var all []*x509.Certificate
	for _, b := range bundles {
		all = append(all, b.trust.Certificates()...)
	}
	anchors := verify.NewTrust(all)
	m.mu.Lock()
	m.bundles, m.anchors = bundles, anchors
	m.trustGen++
	m.mu.Unlock()
	return nil
}

func fileStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d.%d.%s", info.ModTime().UnixNano(), info.Size(), inode(info))
}

// readBundle reads a file that may have been put there by hand. One that does
// not parse trusts nobody.
func (m *Manager) readBundle(name, stamp string) *bundle {
	b := &bundle{stamp: stamp, mode: Strict, trust: verify.NewTrust(nil)}
	info, err := os.Stat(m.trustPath(name))
	switch {
	case err != nil:
		b.problem = err.Error()
		return b
	case !info.Mode().IsRegular() || info.Size() > 2*maxBundle:
		b.problem = "it is not a regular file of reasonable size"
		return b
	}
	text, err := os.ReadFile(m.trustPath(name))
	if err != nil {
		b.problem = err.Error()
		return b
	}
	if line, _, _ := bytes.Cut(text, []byte("\n")); strings.TrimSpace(string(line)) == modePrefix+string(Warn) {
		b.mode = Warn
	}
	certs, issues := parseBundle(text)
	if err := verify.Failed(issues); err != nil {
		b.problem = err.Error()
		return b
	}
	b.trust = verify.NewTrust(certs)
	return b
}

// trustFor returns what a bundle trusts, or what all do.
func (m *Manager) trustFor(name string) (*verify.Trust, uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if name == "" {
		return m.anchors, m.trustGen, nil
	}
	b := m.bundles[name]
	if b == nil {
		return nil, m.trustGen, fmt.Errorf("%w: there is no bundle %q", ErrNotFound, name)
	}
	return b.trust, m.trustGen, nil
}

// sweepTrust raises alarms for bundles that cannot be used.
func (m *Manager) sweepTrust(ctx context.Context) {
	m.mu.RLock()
	problems := make(map[string]string, len(m.bundles))
	for name, b := range m.bundles {
		problems[name] = b.problem
	}
	m.mu.RUnlock()
	for name, problem := range problems {
		text := ""
		if problem != "" {
			text = "trust bundle is not in use: " + problem
		}
		m.alarm(ctx, "pki.trust/"+name, name, mooring.SeverityCritical, text)
	}
	m.clearOthers(ctx, "pki.trust/", func(name string) bool { _, ok := problems[name]; return ok })
}
