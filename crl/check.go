package crl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mooringlib/mooring/crl/internal/dist"
	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/crl/internal/trust"
)

// Status is an answer about one certificate. The zero value is StatusUnknown.
type Status uint8

const (
	// StatusUnknown says that nothing in force speaks for the certificate.
	StatusUnknown Status = iota
	// StatusGood says that lists that are in date cover all reasons and do not
	// name the certificate.
	StatusGood
	// StatusStale says that the certificate was good as of Result.AsOf, by lists
	// that are out of date.
	StatusStale
	// StatusOnHold says that the certificate is suspended.
	StatusOnHold
	// StatusRevoked says that the certificate is revoked for good.
	StatusRevoked
)

// String returns "unknown", "good", "stale", "on hold" or "revoked".
func (s Status) String() string {
	names := [...]string{"unknown", "good", "stale", "on hold", "revoked"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// Result is an answer with its grounds.
type Result struct {
	Status Status
	// Reason is why the certificate was revoked, in the words of RFC 5280
	// section 5.3.1 such as "keyCompromise"; empty unless revoked or on hold.
	Reason string
	// RevokedAt is when; InvalidSince is from when on it is suspected not to be
	// valid, zero when the list does not say.
	RevokedAt, InvalidSince time.Time
	// AsOf is the date of the list that decides, the oldest when there are
	// several, zero when there is none. StaleSince is when it was due to be
	// replaced, zero unless the status is stale.
	AsOf, StaleSince time.Time
	// Source is where the deciding list came from.
	Source string
	// Why is the deciding rule, in one line.
	Why string
}

// Err returns nil for good, a [*RevokedError] for revoked and on hold, and an
// error that wraps [ErrUnknown] or [ErrStale] otherwise.
func (r Result) Err(cert *x509.Certificate) error {
	switch r.Status {
	case StatusGood:
		return nil
	case StatusRevoked, StatusOnHold:
		return &RevokedError{Subject: cert.Subject.String(), Reason: r.Reason, At: r.RevokedAt, Source: r.Source}
	case StatusStale:
		return &statusError{ErrStale, r.Why}
	}
	return &statusError{ErrUnknown, r.Why}
}

var reasonNames = [...]string{
	"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
	"cessationOfOperation", "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise",
}

// Check answers for one certificate, and says revoked as well when an authority
// above it is. issuer is the certificate that signed it, whose signature the
// caller has checked; with nil it is looked for among the configured ones, and
// the signature is checked. It needs no network and does not block.
func (m *Manager) Check(cert, issuer *x509.Certificate) Result {
	return m.check(cert, issuer, nil)
}

// Explain is Check with every step on the way: which lists were asked, and
// which rule took one out.
func (m *Manager) Explain(cert, issuer *x509.Certificate) (Result, []string) {
	var steps []string
	r := m.check(cert, issuer, func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) })
	return r, steps
}

func (m *Manager) check(cert, issuer *x509.Certificate, trace func(string, ...any)) Result {
	if cert == nil {
		return Result{Why: "there is no certificate"}
	}
	s := m.snap.Load()
	if s == nil {
		return Result{Why: "the master list is not loaded"}
	}
	q := &query{s: s, now: m.cfg.Now(), trace: trace}
	return q.certificate(cert, issuer)
}

// CheckRevocation reports whether a certificate is revoked or on hold, why and
// since when. It is Check and Permit in the form that other packages ask for: a
// certificate that was good passes while Config.Grace lasts, so that an expired
// list does not cut a router off, and under FailSoft also when nothing is known.
// Otherwise an error says why the status is unknown or stale; it wraps
// [ErrUnknown] or [ErrStale].
func (m *Manager) CheckRevocation(ctx context.Context, cert, issuer *x509.Certificate) (revoked bool, reason string, at time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return false, "", time.Time{}, err
	}
	r := m.Check(cert, issuer)
	switch r.Status {
	case StatusGood:
		return false, "", time.Time{}, nil
	case StatusRevoked, StatusOnHold:
		return true, r.Reason, r.RevokedAt, nil
	}
	return false, "", time.Time{}, m.Permit(cert, r)
}

// Permit applies the policy of the configuration to an answer: nil means that
// the certificate may be used.
func (m *Manager) Permit(cert *x509.Certificate, r Result) error {
	err := r.Err(cert)
	switch r.Status {
	case StatusStale:
		if m.cfg.Fail == FailSoft || !m.cfg.Now().After(r.StaleSince.Add(m.cfg.Grace)) {
			return nil
		}
	case StatusUnknown:
		if m.cfg.Fail == FailSoft {
			return nil
		}
	}
	return err
}

// VerifyConnection is for [tls.Config.VerifyConnection]: it applies the policy
// to every certificate of a verified chain but the root, and accepts when one
// of the chains passes. A connection whose peer showed certificates that were
// not verified is refused.
func (m *Manager) VerifyConnection(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	err := errors.New("crl: the peer's certificates were not verified")
	for _, chain := range cs.VerifiedChains {
		if err = m.permitChain(chain); err == nil {
			return nil
		}
	}
	return err
}

func (m *Manager) permitChain(chain []*x509.Certificate) error {
	for i := range chain[:max(len(chain)-1, 0)] {
		if err := m.Permit(chain[i], m.Check(chain[i], chain[i+1])); err != nil {
			return fmt.Errorf("level %d of the chain: %w", i, err)
		}
	}
	if len(chain) == 1 {
		// A certificate that is trusted by itself.
		if n := m.pool.Lookup(trust.ID(chain[0])); n == nil || !n.Anchor {
			return m.Permit(chain[0], m.Check(chain[0], nil))
		}
	}
	return nil
}

// query is one question.
type query struct {
	s     *snapshot
	now   time.Time
	trace func(string, ...any)
	depth int
}

// note writes down what came of asking a list.
func (q *query) note(l *listView, what string) {
	if q.trace == nil {
		return
	}
	kind := "list"
	if l.base != nil {
		kind = "delta list"
	}
	q.trace("%s %s from %q: %s", kind, l.meta.Number, l.meta.Source, what)
}

func (q *query) certificate(cert, issuer *x509.Certificate) Result {
	var up *trust.Node
	if issuer != nil {
		if up = q.s.pool.Node(issuer); up != nil && !name.Equal(cert.RawIssuer, issuer.RawSubject) {
			return Result{Why: "the certificate names another issuer than the one given"}
		}
	} else {
		for _, n := range q.s.pool.Issuers(cert) {
			if n.Trusted() {
				up = n
				break
			}
		}
	}
	if up == nil || !up.Trusted() {
		return Result{Why: "the certificate's issuer leads to no configured authority"}
	}
	r := q.one(cert, up)
	if r.Status == StatusRevoked || r.Status == StatusOnHold {
		return r
	}
	return q.above(up, r)
}

// above says revoked when an authority above is. That its status is unknown
// changes nothing: whoever asks about a chain asks about each of its members.
func (q *query) above(up *trust.Node, r Result) Result {
	for range signerDepth {
		parents := up.Parents()
		if up.Anchor || len(parents) == 0 {
			return r
		}
		next := parents[0]
		for _, p := range parents {
			if p.Trusted() {
				next = p
				break
			}
		}
		if q.trace != nil {
			q.trace("authority %q:", up.Cert.Subject.String())
		}
		above := q.one(up.Cert, next)
		if above.Status == StatusRevoked || above.Status == StatusOnHold {
			above.Why = fmt.Sprintf("the issuing authority %.200q is revoked: %s", up.Cert.Subject.String(), above.Why)
			return above
		}
		up = next
	}
	return r
}

var (
	oidPoints   = []int{2, 5, 29, 31}
	oidFreshest = []int{2, 5, 29, 46}
)

// points returns the distribution points of a certificate.
func points(cert *x509.Certificate) ([]dist.Point, error) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidPoints) {
			return dist.Points(e.Value)
		}
	}
	return nil, nil
}

// one is RFC 5280 section 6.3.3 for one certificate. Unlike the algorithm there
// it asks every list that matches, not only as many as it takes to cover the
// reasons: a revocation anywhere counts.
func (q *query) one(cert *x509.Certificate, issuer *trust.Node) Result {
	serial := rawSerial(cert)
	a := &answer{mag: serial.mag, negative: serial.negative, cert: cert, issuer: issuer}
	if a.mag == nil || len(a.mag) > index.MaxSerial {
		return Result{Why: "the serial number of the certificate can't be read"}
	}
	dps, err := points(cert)
	if err != nil {
		return Result{Why: "the distribution points of the certificate: " + err.Error()}
	}
	if q.trace != nil {
		q.trace("certificate %q, serial number %x", cert.Subject.String(), a.mag)
	}
	for i := range dps {
		if q.trace != nil {
			q.trace("distribution point %d %q", i+1, dps[i].URIs)
		}
		if r, done := q.point(a, &dps[i]); done {
			return r
		}
	}
	implied := dist.Implied(issuer.Subject)
	if q.trace != nil {
		q.trace("lists of the issuer itself")
	}
	if r, done := q.point(a, &implied); done {
		return r
	}
	return a.result()
}

// answer collects what lists say about one certificate.
type answer struct {
	cert     *x509.Certificate
	issuer   *trust.Node
	mag      []byte
	negative bool

	fresh, any dist.Reasons // what is covered, by lists in date and by all
	oldest     *listView    // of those in date
	stale      *listView
	staleWhy   string
	why        string
}

func (a *answer) result() Result {
	switch {
	case a.fresh == dist.AllReasons:
		return Result{Status: StatusGood, AsOf: a.oldest.this, Source: a.oldest.meta.Source,
			Why: "lists in date cover all reasons and do not name it"}
	case a.any == dist.AllReasons:
		return Result{Status: StatusStale, AsOf: a.stale.this, StaleSince: a.stale.next, Source: a.stale.meta.Source,
			Why: a.staleWhy + "; good as of " + a.stale.this.UTC().Format(time.RFC3339)}
	case a.any != 0:
		return Result{Why: "the lists at hand do not cover all reasons for a revocation"}
	case a.why != "":
		return Result{Why: a.why}
	}
	return Result{Why: "there is no list of the certificate's issuer"}
}

// point asks all lists that may speak through one distribution point.
func (q *query) point(a *answer, p *dist.Point) (Result, bool) {
	if len(p.Issuers) == 0 {
		return q.lists(a, p, a.issuer.Subject)
	}
	for _, n := range p.Issuers {
		key, err := name.KeyOf(n)
		if err != nil {
			continue
		}
		if r, done := q.lists(a, p, key); done {
			return r, true
		}
	}
	return Result{}, false
}

// lists asks the complete lists of one issuer.
func (q *query) lists(a *answer, p *dist.Point, key name.Key) (Result, bool) {
	for _, i := range q.s.byIssuer[key] {
		if r, done := q.list(a, p, &q.s.lists[i]); done {
			return r, true
		}
	}
	return Result{}, false
}

// list asks one complete list, with its delta list.
func (q *query) list(a *answer, p *dist.Point, l *listView) (Result, bool) {
	skip := func(why string) (Result, bool) {
		q.note(l, why)
		a.why = why
		return Result{}, false
	}
	subject := dist.Subject{CA: a.cert.BasicConstraintsValid && a.cert.IsCA, Issuer: a.cert.RawIssuer}
	reasons, why := l.scope.Covers(l.meta.Issuer, p, subject)
	if why != "" {
		return skip(why)
	}
	if !l.signer.SharesAnchor(a.issuer) {
		return skip("the list's signer and the certificate's issuer lead to different trust anchors")
	}
	if why := q.signerRevoked(a, l); why != "" {
		return skip(why)
	}
	if r, ok := q.entry(a, l); ok {
		return r, true
	}
	fresh, why := l.fresh(q.now)
	if fresh && a.cert.NotAfter.Before(l.this) && (l.meta.ExpiredSince == 0 || a.cert.NotAfter.Before(time.Unix(l.meta.ExpiredSince, 0))) {
		return skip("the certificate expired before the list was made, and the list does not keep expired ones")
	}
	a.any |= reasons
	if fresh {
		a.fresh |= reasons
		if a.oldest == nil || l.this.Before(a.oldest.this) {
			a.oldest = l
		}
		q.note(l, "does not name it")
	} else {
		// Of lists that each cover everything the newest counts; of parts, the
		// oldest.
		whole := reasons == dist.AllReasons
		if a.stale == nil || whole && l.next.After(a.stale.next) || !whole && l.next.Before(a.stale.next) {
			a.stale, a.staleWhy = l, why
		}
		q.note(l, "does not name it, but "+why)
	}
	return Result{}, false
}

// signerRevoked says why the signer of a list can't be relied on. A signer that
// is an anchor, or the certificate's own issuer, is looked at elsewhere.
func (q *query) signerRevoked(a *answer, l *listView) string {
	if l.signer.Anchor || l.signer == a.issuer || q.depth == signerDepth {
		return ""
	}
	for _, up := range l.signer.Parents() {
		deeper := &query{s: q.s, now: q.now, depth: q.depth + 1}
		if r := deeper.one(l.signer.Cert, up); r.Status == StatusRevoked || r.Status == StatusOnHold {
			return "the certificate of the list's signer is revoked"
		}
	}
	return ""
}

// entry looks the certificate up, in the delta list first.
func (q *query) entry(a *answer, l *listView) (Result, bool) {
	key := a.issuer.Subject
	e, ok := q.s.file.Find(l.position, key, a.mag, a.negative)
	from := l
	if d := q.s.deltaFor(l); d != nil {
		if de, dok := q.s.file.Find(d.position, key, a.mag, a.negative); dok {
			from = d
			if e, ok = de, true; de.Reason == list.ReasonRemove {
				q.note(d, "takes it out of the list")
				return Result{}, false
			}
		}
	}
	if !ok {
		return Result{}, false
	}
	r := Result{
		Status: StatusRevoked, Reason: reasonNames[0], RevokedAt: time.Unix(e.Date, 0).UTC(), AsOf: from.this, Source: from.meta.Source,
		Why: fmt.Sprintf("list %s of %s names it", from.meta.Number, oneLine(from.meta.Issuer)),
	}
	if int(e.Reason) < len(reasonNames) {
		r.Reason = reasonNames[e.Reason]
	}
	if e.Reason == list.ReasonHold {
		r.Status = StatusOnHold
	}
	if e.Invalidity != index.NoDate {
		r.InvalidSince = time.Unix(e.Invalidity, 0).UTC()
	}
	q.note(from, "names it, "+r.Reason+" at "+r.RevokedAt.Format(time.RFC3339))
	return r, true
}

type serialNumber struct {
	mag      []byte
	negative bool
}

func rawSerial(cert *x509.Certificate) serialNumber {
	if cert.SerialNumber == nil {
		return serialNumber{}
	}
	mag := cert.SerialNumber.Bytes()
	if mag == nil {
		mag = []byte{}
	}
	return serialNumber{mag, cert.SerialNumber.Sign() < 0}
}
