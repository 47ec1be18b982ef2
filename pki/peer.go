package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki/verify"
)

// question is what a result of validation is an answer to.
type question struct {
	certs  []*x509.Certificate // leaf first
	trust  string
	name   string
	usages []x509.ExtKeyUsage
}

// answerTo is a result and the time for which it holds.
type answerTo struct {
	issues   []verify.Issue
	from, to time.Time
	trustGen uint64
	revGen   uint64
}

func (a *answerTo) holds(now time.Time, trustGen, revGen uint64) bool {
	return a.trustGen == trustGen && a.revGen == revGen && !now.Before(a.from) && !now.After(a.to)
}

// cacheKey is the SHA-256 of a question. Nothing else of it is kept: whoever
// begins a handshake chooses the certificates, before any proof that the key is
// theirs.
type cacheKey [sha256.Size]byte

func (q question) key() cacheKey {
	h := sha256.New()
	// Each part stands behind its length, so no two questions look the same.
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		_, _ = h.Write(n[:])
		_, _ = h.Write(b)
	}
	part([]byte(q.trust))
	part([]byte(q.name))
	usages := make([]byte, len(q.usages))
	for i, u := range q.usages {
		usages[i] = byte(u)
	}
	part(usages)
	for _, c := range q.certs {
		part(c.Raw)
	}
	return cacheKey(h.Sum(nil))
}

// resultCache remembers results. Refusals have a small place of their own, so
// that strangers neither fill memory nor push out what is known of peers.
type resultCache struct {
	mu            sync.RWMutex
	good, refused map[cacheKey]*answerTo
}

func (c *resultCache) init() {
	c.good, c.refused = map[cacheKey]*answerTo{}, map[cacheKey]*answerTo{}
}

func (c *resultCache) get(key cacheKey, now time.Time, trustGen, revGen uint64) *answerTo {
	c.mu.RLock()
	a := c.good[key]
	if a == nil {
		a = c.refused[key]
	}
	c.mu.RUnlock()
	if a == nil || !a.holds(now, trustGen, revGen) {
		return nil
	}
	return a
}

func (c *resultCache) put(key cacheKey, a *answerTo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.good, key)
	delete(c.refused, key)
	m, limit := c.good, maxCache
	if verify.Failed(a.issues) != nil {
		m, limit = c.refused, maxRefused
	}
	if len(m) >= limit {
		// Any one goes: map order is random.
		for k := range m {
			delete(m, k)
			break
		}
	}
	m[key] = a
}

// purge forgets what does not hold any more.
func (c *resultCache) purge(now time.Time, trustGen, revGen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range []map[cacheKey]*answerTo{c.good, c.refused} {
		for k, a := range m {
			if !a.holds(now, trustGen, revGen) {
				delete(m, k)
			}
		}
	}
}

// goodMemory remembers when certificates were last known not to be revoked.
type goodMemory struct {
	mu sync.Mutex
	m  map[string]time.Time
}

func (g *goodMemory) remember(c *x509.Certificate, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = map[string]time.Time{}
	}
	if len(g.m) >= maxCache {
		clear(g.m)
	}
	g.m[string(c.Signature)] = now
}

func (g *goodMemory) last(c *x509.Certificate) (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.m[string(c.Signature)]
	return t, ok
}

func (g *goodMemory) forget(c *x509.Certificate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.m, string(c.Signature))
}

// RevocationChanged drops every remembered result of validation. Call it when
// revocation data has changed and Config.Revocation does not tell by itself.
func (m *Manager) RevocationChanged() { m.revokedGen.Add(1) }

func (m *Manager) revocationGeneration() uint64 {
	g := m.revokedGen.Load()
	if r, ok := m.cfg.Revocation.(interface{ RevocationGeneration() uint64 }); ok {
		g += r.RevocationGeneration() << 20
	}
	return g
}

// validate answers a question, from memory when it can.
func (m *Manager) validate(ctx context.Context, q question, now time.Time) *answerTo {
	trust, trustGen, err := m.trustFor(q.trust)
	if err != nil {
		return &answerTo{issues: []verify.Issue{{Class: verify.Untrusted, Text: err.Error()}}}
	}
	revGen := m.revocationGeneration()
	key := q.key()
	if a := m.cache.get(key, now, trustGen, revGen); a != nil {
		return a
	}
	a := m.judge(ctx, trust, q, now)
	if ctx.Err() == nil {
		a.trustGen, a.revGen = trustGen, revGen
		m.cache.put(key, a)
	}
	return a
}

func (m *Manager) judge(ctx context.Context, trust *verify.Trust, q question, now time.Time) *answerTo {
	leaf := q.certs[0]
	chain, issues := trust.Verify(leaf, q.certs[1:], verify.Options{Now: now, Usages: q.usages, Name: q.name})
	a := &answerTo{issues: issues, from: now, to: now.Add(refusedFor)}
	if chain == nil {
		if q.trust != "" {
			a.issues = append(a.issues, m.otherAnchor(leaf, q, now)...)
		}
		a.narrow(q.certs, now)
		return a
	}
	a.issues = append(a.issues, m.revocation(ctx, chain, now)...)
	if !slices.ContainsFunc(a.issues, func(i verify.Issue) bool {
		return i.Class == verify.RevocationUnknown || i.Class == verify.Revoked
	}) {
		a.from, a.to = chain[0].NotBefore, chain[0].NotAfter
		if m.cfg.Revocation != nil {
			a.from, a.to = now, now.Add(m.cfg.RevocationMaxAge)
		}
	}
	a.narrow(chain, now)
	return a
}

// narrow lets an answer hold only while no date in a path is passed.
func (a *answerTo) narrow(certs []*x509.Certificate, now time.Time) {
	for _, c := range certs {
		for _, at := range []time.Time{c.NotBefore, c.NotAfter} {
			if at.After(now) && at.Before(a.to) {
				a.to = at
			}
			if !at.After(now) && at.After(a.from) {
				a.from = at
			}
		}
	}
}

// otherAnchor says so when the certificate is trusted, but by another bundle.
func (m *Manager) otherAnchor(leaf *x509.Certificate, q question, now time.Time) []verify.Issue {
	m.mu.RLock()
	all := m.anchors
	m.mu.RUnlock()
	chain, _ := all.Verify(leaf, q.certs[1:], verify.Options{Now: now, Usages: q.usages, Name: q.name})
	if chain == nil {
		return nil
	}
	return []verify.Issue{{Class: verify.Untrusted, Subject: verify.Subject(leaf),
		Text: fmt.Sprintf("its trust anchor is %.200q, which is not in the bundle %q", chain[len(chain)-1].Subject.String(), q.trust)}}
}

// PeerOptions says what a peer's certificate has to be.
type PeerOptions struct {
	// Trust is the name of the bundle that its trust anchor must be in. Empty
	// means any bundle.
	Trust string
	// Server is set when the peer is the TLS server: its certificate must allow
	// that. Otherwise it is the client.
	Server bool
	// Name is the DNS name or IP address that the certificate must be for.
	// Empty means any name in [Manager.VerifyPeer], and in a handshake with a
	// server the ServerName of the configuration. crypto/tls does not tell that
	// name when it is an IP address, so then it has to be set here.
	Name string
}

func (o PeerOptions) usages() []x509.ExtKeyUsage {
	if o.Server {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// eitherRole is for certificates whose role in TLS is not known yet.
func eitherRole() []x509.ExtKeyUsage {
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
}

// VerifyPeer validates the certificates of a peer, leaf first. The error is a
// [*verify.Failure]. Everything is enforced, revocation included, whatever
// validation modes and [Behavior] are set. The answer is remembered until trust,
// revocation data or time changes it.
func (m *Manager) VerifyPeer(ctx context.Context, certs []*x509.Certificate, o PeerOptions) error {
	if len(certs) == 0 {
		return &verify.Failure{Issues: []verify.Issue{{Class: verify.Malformed, Text: "the peer has no certificate"}}}
	}
	now := m.now()
	a := m.validate(ctx, question{certs: certs, trust: o.Trust, name: o.Name, usages: o.usages()}, now)
	err := verify.Failed(a.issues)
	if err != nil {
		m.counters.peer.count(stateOf(a.issues, certs[0].NotBefore, certs[0].NotAfter, now))
	}
	return err
}

// Peer is a peer whose certificate is watched while the peering lasts.
type Peer struct {
	// Name is the caller's name for the peering.
	Name string
	// Certificates is what the peer presented, leaf first.
	Certificates []*x509.Certificate
	// Trust is the name of the bundle that the trust anchor must be in. Empty
	// means any.
	Trust string
}

type peerState struct {
	peer  Peer
	state State
}

// WatchPeer validates a peer's certificate now and in every sweep, until
// [Manager.ForgetPeer]. It replaces a watched peer of the same name. While the
// certificate is expired, revoked or otherwise invalid an alarm is raised, and
// under [FailHard] the hook is told once to drop the peering. The error is that of
// [Manager.VerifyPeer]; the peer is watched all the same.
func (m *Manager) WatchPeer(ctx context.Context, p Peer) error {
	if p.Name == "" || len(p.Certificates) == 0 {
		return FieldErrors{{Field: "peer", Text: "name or certificates are missing"}}
	}
	m.mu.Lock()
	if _, ok := m.peers[p.Name]; !ok && len(m.peers) >= maxPeers {
		m.mu.Unlock()
		return fmt.Errorf("pki: more than %d peers", maxPeers)
	}
	s := &peerState{peer: p, state: StateValid}
	m.peers[p.Name] = s
	m.mu.Unlock()
	m.op.Lock()
	defer m.op.Unlock()
	return m.lookAtPeer(ctx, s)
}

// ForgetPeer ends the watch on a peer and clears its alarm.
func (m *Manager) ForgetPeer(ctx context.Context, name string) {
	m.op.Lock()
	defer m.op.Unlock()
	m.mu.Lock()
	delete(m.peers, name)
	m.mu.Unlock()
	m.alarm(ctx, "pki.peer/"+name, name, 0, "")
}

// sweepPeers needs op.
func (m *Manager) sweepPeers(ctx context.Context) error {
	m.mu.RLock()
	peers := make([]*peerState, 0, len(m.peers))
	for _, s := range m.peers {
		peers = append(peers, s)
	}
	m.mu.RUnlock()
	for _, s := range peers {
		if err := ctx.Err(); err != nil {
			return err
		}
		_ = m.lookAtPeer(ctx, s)
	}
	return nil
}

// lookAtPeer needs op.
func (m *Manager) lookAtPeer(ctx context.Context, s *peerState) error {
	now := m.now()
	leaf := s.peer.Certificates[0]
	a := m.validate(ctx, question{certs: s.peer.Certificates, trust: s.peer.Trust, usages: eitherRole()}, now)
	err := verify.Failed(a.issues)
	m.mu.RLock()
	watched := m.peers[s.peer.Name] == s
	m.mu.RUnlock()
	if !watched {
		// It was forgotten or replaced while the caller waited for its turn;
		// nobody would clear an alarm.
		return err
	}
	state := stateOf(a.issues, leaf.NotBefore, leaf.NotAfter, now)
	text := ""
	var severity mooring.Severity
	if state.bad() {
		var reasons []string
		for _, i := range a.issues {
			if !i.Warning {
				reasons = append(reasons, i.String())
			}
		}
		severity, text = mooring.SeverityCritical, "certificate of the peer is "+string(state)+": "+strings.Join(reasons, "; ")
	}
	m.alarm(ctx, "pki.peer/"+s.peer.Name, s.peer.Name, severity, text)
	if state == s.state {
		return err
	}
	was := s.state
	s.state = state
	m.counters.peer.count(state)
	if state.bad() && !was.bad() && m.cfg.Behavior == FailHard && m.cfg.Hooks != nil {
		m.cfg.Hooks.DropPeering(ctx, Drop{Peer: s.peer.Name, Reason: capped(text)})
	}
	return err
}
