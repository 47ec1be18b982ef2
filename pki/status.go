package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki/verify"
)

// State is where a certificate stands in its life.
type State string

// The states.
const (
	StateValid       State = "valid"
	StateExpiring    State = "expiring" // valid, but for less than 30 days
	StateNotYetValid State = "not-yet-valid"
	StateExpired     State = "expired"
	StateRevoked     State = "revoked"
	StateInvalid     State = "invalid"
	StateMissing     State = "missing" // no certificate on disk
)

// bad reports whether a certificate in this state may not be used.
func (s State) bad() bool {
	return s == StateExpired || s == StateRevoked || s == StateInvalid || s == StateNotYetValid
}

// Status describes one certificate.
type Status struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Subject to Key are empty while there is no certificate.
	Subject   string    `json:"subject,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// Fingerprint is the SHA-256 of the certificate, in hex.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Key is the kind of key, such as "RSA 2048".
	Key string `json:"key,omitempty"`
	// PendingKey says that a key waits for its certificate.
	PendingKey bool `json:"pending_key,omitempty"`
	// Issues is what is wrong, warnings too.
	Issues []verify.Issue `json:"issues,omitempty"`

	// inUse is the state of the certificate that TLS uses. It may be valid
	// while the files on disk are not.
	inUse State
}

func describe(name string, c *x509.Certificate) Status {
	return Status{
		Name: name, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: fmt.Sprintf("%x", c.SerialNumber),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fingerprint: fmt.Sprintf("%x", sha256.Sum256(c.Raw)), Key: specOf(c.PublicKey).String(),
	}
}

// judge sets state and issues.
func (s *Status) judge(issues []verify.Issue, now time.Time) {
	s.Issues = issues
	s.State = stateOf(issues, s.NotBefore, s.NotAfter, now)
}

func stateOf(issues []verify.Issue, begin, end, now time.Time) State {
	has := func(class verify.Class) bool {
		return slices.ContainsFunc(issues, func(i verify.Issue) bool { return i.Class == class && !i.Warning })
	}
	switch {
	case has(verify.Revoked):
		return StateRevoked
	case now.After(end):
		return StateExpired
	case now.Before(begin):
		return StateNotYetValid
	case verify.Failed(issues) != nil:
		return StateInvalid
	case end.Sub(now) < minorBefore:
		return StateExpiring
	}
	return StateValid
}

// severity returns the alarm that the state deserves, 0 for none.
func (s *Status) severity(now time.Time) mooring.Severity {
	switch {
	case s.State.bad() || s.State == StateMissing:
		return mooring.SeverityCritical
	case s.State != StateExpiring:
		return 0
	case s.NotAfter.Sub(now) < majorBefore:
		return mooring.SeverityMajor
	}
	return mooring.SeverityMinor
}

// text is what the alarm says. It does not change from day to day.
func (s *Status) text() string {
	var reasons []string
	for _, i := range s.Issues {
		if !i.Warning {
			reasons = append(reasons, i.String())
		}
	}
	why := strings.Join(reasons, "; ")
	switch s.State {
	case StateMissing:
		return "there is no certificate on disk; a valid one must be obtained from an authority"
	case StateExpired:
		return "certificate expired at " + s.NotAfter.UTC().Format(time.RFC3339)
	case StateExpiring:
		return "certificate expires at " + s.NotAfter.UTC().Format(time.RFC3339)
	case StateNotYetValid:
		return "certificate is not valid before " + s.NotBefore.UTC().Format(time.RFC3339)
	case StateRevoked:
		return "certificate is revoked: " + why
	case StateInvalid:
		return "certificate is invalid: " + why
	}
	return ""
}

// Show returns the state of every name, sorted. It looks at what is in use and
// does not read files; [Manager.Sweep] does.
func (m *Manager) Show(ctx context.Context) []Status {
	m.mu.RLock()
	entries := make([]*entry, 0, len(m.entries))
	for _, e := range m.entries {
		entries = append(entries, e)
	}
	m.mu.RUnlock()
	out := []Status{}
	m.op.Lock()
	defer m.op.Unlock()
	for _, e := range entries {
		if s, ok := m.statusOf(ctx, e); ok {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// statusOf judges one name. It needs op. ok is false for a name of which nothing
// is left.
func (m *Manager) statusOf(ctx context.Context, e *entry) (Status, bool) {
	now := m.now()
	pair := e.pair.Load()
	if pair == nil || e.missing {
		s := Status{Name: e.name, State: StateMissing, PendingKey: e.pending, Issues: e.problem}
		if pair != nil {
			s = describe(e.name, pair.Leaf)
			s.judge(m.validate(ctx, question{certs: pairCertificates(pair), usages: eitherRole()}, now).issues, now)
			s.inUse = s.State
			s.State, s.PendingKey, s.Issues = StateMissing, e.pending, e.problem
		}
		if !e.missing && verify.Failed(e.problem) != nil {
			s.State = StateInvalid
		}
		if pair == nil {
			s.inUse = s.State
		}
		stamp := m.files.Stamp(e.name)
		return s, m.configured(e.name) || strings.Trim(stamp, "-;") != ""
	}
	s := describe(e.name, pair.Leaf)
	s.PendingKey = e.pending
	res := m.validate(ctx, question{certs: pairCertificates(pair), usages: eitherRole()}, now)
	issues := slices.Clone(res.issues)
	s.judge(issues, now)
	s.inUse = s.State
	if verify.Failed(e.problem) != nil {
		s.Issues = append(issues, e.problem...)
		if !s.State.bad() {
			s.State = StateInvalid
			s.Issues = append([]verify.Issue{{Class: verify.Malformed, Text: "the files on disk were changed and are not in use; the certificate before them is"}}, s.Issues...)
		}
	}
	return s, true
}

// Sweep reads files that have changed, judges every certificate, own and of
// peers, and raises and clears alarms. Run calls it.
func (m *Manager) Sweep(ctx context.Context) error {
	m.op.Lock()
	defer m.op.Unlock()
	if err := m.loadTrust(ctx); err != nil {
		return err
	}
	if err := m.refresh(ctx, false); err != nil {
		return err
	}
	m.sweepTrust(ctx)
	m.sweepOwn(ctx)
	m.mu.RLock()
	trustGen := m.trustGen
	m.mu.RUnlock()
	m.cache.purge(m.now(), trustGen, m.revocationGeneration())
	return m.sweepPeers(ctx)
}

// sweepOwn needs op.
func (m *Manager) sweepOwn(ctx context.Context) {
	m.mu.RLock()
	entries := make([]*entry, 0, len(m.entries))
	for _, e := range m.entries {
		entries = append(entries, e)
	}
	m.mu.RUnlock()
	for _, e := range entries {
		s, ok := m.statusOf(ctx, e)
		text := ""
		var severity mooring.Severity
		if ok && (s.State != StateMissing || m.configured(e.name)) {
			severity, text = s.severity(m.now()), s.text()
		}
		m.alarm(ctx, "pki.certificate/"+e.name, e.name, severity, text)
		if !ok {
			m.mu.Lock()
			delete(m.entries, e.name)
			m.mu.Unlock()
			continue
		}
		if s.State != e.state {
			e.state = s.State
			m.counters.own.count(s.State)
		}
		was := e.inUse
		e.inUse = s.inUse
		if s.inUse.bad() && !was.bad() && m.cfg.Behavior == FailHard && m.cfg.Hooks != nil {
			m.cfg.Hooks.DropPeering(ctx, Drop{Certificate: e.name, Reason: capped(s.text())})
		}
	}
}
