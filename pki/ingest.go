package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mooringlib/mooring/pki/internal/pemtext"
	"github.com/mooringlib/mooring/pki/verify"
)

// The names of the three checks, in their order.
const (
	CheckPrivateKey = "private-key"
	CheckValid      = "validation"
	CheckRevocation = "revocation"
)

// Check is the outcome of one of the three checks.
type Check struct {
	// Name is CheckPrivateKey, CheckValid or CheckRevocation.
	Name string `json:"check"`
	// Result is "passed", "failed" or "skipped". A skipped check says why in
	// Issues.
	Result string `json:"result"`
	// Issues is what was found, warnings too.
	Issues []verify.Issue `json:"issues,omitempty"`
}

// Ingested is the report on a certificate that was handed in.
type Ingested struct {
	Name string `json:"name"`
	// Accepted says whether it is in force now.
	Accepted bool `json:"accepted"`
	// Checks holds all three, in their order.
	Checks []Check `json:"checks"`
	// Certificate describes it when it parsed.
	Certificate *Status `json:"certificate,omitempty"`
}

// Ingest takes a certificate in: one leaf in PEM, with or without its chain, in
// any order. All three checks are made and reported. When one fails, the error is
// a [*verify.Failure] with every reason, nothing has changed, and the report is
// there all the same. Otherwise the certificate, and the key when one waited for
// it, is in force when Ingest returns, on disk and for TLS.
func (m *Manager) Ingest(ctx context.Context, name string, text []byte) (*Ingested, error) {
	var report *Ingested
	var ev evaluation
	err := checkName(name)
	if err == nil {
		err = m.write(ctx, func() error {
			var err error
			ev, err = m.ingest(ctx, name, text)
			report = ev.report(m.now())
			return err
		})
	}
	if err != nil {
		m.counters.importFailure.Add(1)
	} else {
		report.Accepted = true
		m.counters.importSuccess.Add(1)
	}
	if ev.name == "" {
		// It was refused before there was anything to check.
		report = &Ingested{Name: capped(name), Checks: []Check{}}
		m.audit(ctx, "system.ingest_certificate", "Ingested certificate: "+capped(name), err, map[string]any{"name": capped(name)})
		return report, err
	}
	m.auditIngest(ctx, name, ev, err == nil)
	return report, err
}

// ingest needs op and the lock of the files.
func (m *Manager) ingest(ctx context.Context, name string, text []byte) (evaluation, error) {
	pending, current, p, err := m.storedKeys(ctx, name)
	if err != nil {
		return evaluation{}, err
	}
	if pending == nil && current == nil {
		return evaluation{}, fmt.Errorf("%w: %q has no private key; make one and a request first", ErrNotFound, name)
	}
	ev := evaluation{name: name, text: text}
	if pending != nil {
		ev.pending = pending.Public()
	}
	if current != nil {
		ev.current = current.Public()
	}
	ev = m.evaluate(ctx, ev)
	if err := ev.err(); err != nil {
		return ev, err
	}
	// The authorities between leaf and root go along, because peers may lack
	// them; the root does not.
	certs := ev.chain[:len(ev.chain)-1]
	encoded := encodeCertificates(certs)
	signer, put := current, func() error { return m.files.PutCert(name, encoded) }
	if ev.usesPending {
		signer, put = pending, func() error { return m.files.Switch(name, encoded) }
	}
	if err := put(); err != nil {
		return ev, fmt.Errorf("pki: certificate of %q: %w", name, err)
	}
	e := m.entry(name)
	e.stamp, e.read = m.files.Stamp(name), true
	e.missing, e.problem, e.unsettled = false, nil, ""
	e.again, e.atStart, e.refused = false, false, nil
	e.pending = p.Pending != nil && !ev.usesPending
	e.pair.Store(newPair(ev.leaf, certs, signer))
	m.replaced(ctx, name, ev.leaf)
	return ev, nil
}

// evaluation is one certificate on its way in. The first fields are given, the
// others are found.
type evaluation struct {
	name             string
	text             []byte
	pending, current crypto.PublicKey

	leaf        *x509.Certificate
	chain       []*x509.Certificate
	usesPending bool
	checks      []Check
}

// evaluate makes the three checks.
func (m *Manager) evaluate(ctx context.Context, ev evaluation) evaluation {
	if len(ev.text) > maxIngest {
		ev.skip(CheckPrivateKey, "it is too long to be searched")
	} else {
		ev.check(CheckPrivateKey, ev.privateKey())
	}
	certs, issues := ev.parse()
	if ev.leaf != nil {
		m.mu.RLock()
		trust := m.anchors
		m.mu.RUnlock()
		extra := slices.DeleteFunc(certs, func(c *x509.Certificate) bool { return c.Equal(ev.leaf) })
		chain, found := trust.Verify(ev.leaf, extra, verify.Options{Now: m.now(), Usages: eitherRole()})
		ev.chain = chain
		issues = append(issues, found...)
	}
	ev.check(CheckValid, issues)
	switch {
	case m.cfg.Revocation == nil:
		ev.skip(CheckRevocation, "no source of revocation data is set")
	case ev.chain == nil:
		ev.skip(CheckRevocation, "it needs the path to a trusted authority")
	default:
		ev.check(CheckRevocation, m.revocation(ctx, ev.chain, m.now()))
	}
	return ev
}

func (ev *evaluation) check(name string, issues []verify.Issue) {
	result := "passed"
	if verify.Failed(issues) != nil {
		result = "failed"
	}
	ev.checks = append(ev.checks, Check{Name: name, Result: result, Issues: issues})
}

func (ev *evaluation) skip(name, why string) {
	class := verify.RevocationUnknown
	if name == CheckPrivateKey {
		class = verify.TooLarge
	}
	ev.checks = append(ev.checks, Check{Name: name, Result: "skipped", Issues: []verify.Issue{{Class: class, Text: why, Warning: true}}})
}

// issues returns what all checks found.
func (ev *evaluation) issues() []verify.Issue {
	var out []verify.Issue
	for _, c := range ev.checks {
		out = append(out, c.Issues...)
	}
	return out
}

func (ev *evaluation) err() error { return verify.Failed(ev.issues()) }

func (ev *evaluation) privateKey() []verify.Issue {
	if form, ok := pemtext.FindPrivateKey(ev.text); ok {
		return []verify.Issue{{Class: verify.PrivateKey, Text: form + " travels with the certificate; a private key never leaves its device, so treat it as disclosed"}}
	}
	return nil
}

// parse finds the leaf.
func (ev *evaluation) parse() ([]*x509.Certificate, []verify.Issue) {
	issue := func(class verify.Class, format string, args ...any) []verify.Issue {
		return []verify.Issue{{Class: class, Text: fmt.Sprintf(format, args...)}}
	}
	if len(ev.text) > maxIngest {
		return nil, issue(verify.TooLarge, "%d bytes are more than %d", len(ev.text), maxIngest)
	}
	certs, issues := parseCertificates(ev.text, maxIngestCerts)
	if len(issues) > 0 {
		return nil, issues
	}
	seen := map[string]bool{}
	leaves := 0
	for _, c := range certs {
		if seen[string(c.Raw)] {
			return nil, issue(verify.Malformed, "%q is there twice", verify.Subject(c))
		}
		seen[string(c.Raw)] = true
		// One that has issued another is a faulty authority, not a leaf.
		if !c.IsCA && !slices.ContainsFunc(certs, func(o *x509.Certificate) bool { return o != c && bytes.Equal(o.RawIssuer, c.RawSubject) }) {
			leaves++
		}
	}
	if leaves > 1 {
		return nil, issue(verify.Role, "there are %d certificates that are not an authority's; one leaf and its chain is expected", leaves)
	}
	if ev.pending != nil {
		ev.leaf = leafFor(certs, ev.pending)
		ev.usesPending = ev.leaf != nil
	}
	if ev.leaf == nil && ev.current != nil {
		ev.leaf = leafFor(certs, ev.current)
	}
	if ev.leaf != nil {
		return certs, nil
	}
	// The best guess, so that everything else about it is told too.
	ev.leaf = certs[0]
	if i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return !c.IsCA }); i >= 0 {
		ev.leaf = certs[i]
	}
	return certs, issue(verify.KeyMismatch, "its public key is not that of the private key of %q", ev.name)
}

func (ev *evaluation) report(now time.Time) *Ingested {
	r := &Ingested{Name: ev.name, Checks: ev.checks}
	if ev.leaf != nil {
		s := describe(ev.name, ev.leaf)
		s.judge(ev.issues(), now)
		r.Certificate = &s
	}
	return r
}

// revocation asks about every certificate of a path but the anchor.
func (m *Manager) revocation(ctx context.Context, chain []*x509.Certificate, now time.Time) []verify.Issue {
	if m.cfg.Revocation == nil {
		return nil
	}
	var issues []verify.Issue
	for i, c := range chain[:len(chain)-1] {
		revoked, reason, at, err := m.cfg.Revocation.CheckRevocation(ctx, c, chain[i+1])
		issue := verify.Issue{Subject: verify.Subject(c)}
		switch {
		case revoked:
			m.good.forget(c)
			issue.Class = verify.Revoked
			issue.Text = "revoked"
			if !at.IsZero() {
				issue.Text += " at " + at.UTC().Format(time.RFC3339)
			}
			if reason != "" {
				issue.Text += fmt.Sprintf(" (%.100s)", reason)
			}
		case err != nil:
			issue.Class = verify.RevocationUnknown
			issue.Text = fmt.Sprintf("whether it is revoked is not known: %.200s", err.Error())
			if last, ok := m.good.last(c); ok && !errors.Is(err, context.Canceled) && !now.Before(last) && now.Sub(last) <= m.cfg.RevocationGrace {
				issue.Warning = true
				issue.Text += "; known to be good at " + last.UTC().Format(time.RFC3339)
			}
		default:
			m.good.remember(c, now)
			continue
		}
		issues = append(issues, issue)
	}
	return issues
}
