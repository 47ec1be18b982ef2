package sco

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/internal/admit"
	"github.com/mooringlib/mooring/sco/internal/jot"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// attempt is one run of the protocol on the conductor's side. Its steps stand in
// the order of their cost, the cheap ones first.
type attempt struct {
	c      *Conductor
	conn   *tls.Conn
	snap   *snapshot
	slot   *admit.Slot
	remote string
	at     time.Time
	began  time.Time

	// What the client says; known is true once such a router and node exist.
	router, assetID string
	known           bool
	// proven: the client knows the router's secret and has a valid token, until
	// expires.
	proven  bool
	expires time.Time
	// accepted: the answer was yes, nothing may be refused any more.
	accepted bool

	hello  *wire.Hello
	config *Router // as it was when the attempt began
	node   *Node
	sshKey ssh.PublicKey
	keys   *wire.Keys
	tr     wire.Transcript
	ev     evidenceCheck
}

func (a *attempt) evidence() string {
	if a.hello == nil {
		return ""
	}
	return EvidenceKind(a.hello.Kind).String()
}

func (a *attempt) run(ctx context.Context) error {
	cs := a.conn.ConnectionState()
	if err := a.channel(&cs); err != nil {
		return err
	}
	if err := a.readHello(ctx); err != nil {
		return err
	}
	end, ok := a.c.begin(a.assetID)
	if !ok {
		return a.no("too many attempts of this asset-id at the same time")
	}
	defer end()
	a.slot.Keep()
	if err := a.ev.begin(a); err != nil {
		return err
	}
	if err := a.sendChallenge(); err != nil {
		return err
	}
	if err := a.readProof(); err != nil {
		return err
	}
	if err := a.commit(ctx, cs.CurveID.String()); err != nil {
		return err
	}
	a.accepted = true
	if err := a.sendAccept(); err != nil {
		a.c.cfg.Logger.InfoContext(ctx, "the router was accepted, but the answer was not delivered; it will run again",
			slog.String("router", a.router), slog.String("asset-id", a.assetID), slog.Any("err", err))
		return nil
	}
	return a.finish(ctx)
}

// channel binds the attempt to its TLS connection (RFC 9266). Below TLS 1.3 an
// exporter could be made the same on two connections.
func (a *attempt) channel(cs *tls.ConnectionState) error {
	exporter, err := channelBinding(cs)
	if err != nil {
		return refuse("%v", err)
	}
	a.tr.Exporter = exporter
	return nil
}

func channelBinding(cs *tls.ConnectionState) ([]byte, error) {
	if cs.Version != tls.VersionTLS13 || cs.DidResume || cs.NegotiatedProtocol != wire.ALPN {
		return nil, errors.New("not a fresh TLS 1.3 connection of this protocol")
	}
	b, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil || len(b) != 32 {
		return nil, errors.New("no channel binding")
	}
	return b, nil
}

func (a *attempt) read(typ uint8, limit int, timeout time.Duration) ([]byte, error) {
	_ = a.conn.SetDeadline(time.Now().Add(timeout))
	got, b, err := wire.ReadMessage(a.conn, limit)
	if err != nil {
		return nil, err
	}
	if got != typ {
		return nil, refuse("message %d instead of %d", got, typ)
	}
	return b, nil
}

// readHello checks everything that costs little, until the client has shown
// that it knows the secret and has a valid token.
func (a *attempt) readHello(ctx context.Context) error {
	b, err := a.read(wire.TypeHello, wire.MaxHello, helloTimeout)
	if err != nil {
		return err
	}
	m, body, err := wire.ParseHello(b)
	if err != nil {
		return refuse("%v", err)
	}
	if checkName("router", m.Router) != nil || checkAssetID(m.AssetID) != nil {
		return refuse("router or asset-id is malformed")
	}
	a.hello, a.router, a.assetID = m, m.Router, m.AssetID
	if a.sshKey, err = parseSSHKey(m.SSHKey); err != nil {
		return refuse("%v", err)
	}
	if int(m.Kind) >= len(evidenceNames) {
		return refuse("evidence kind %d is not known", m.Kind)
	}
	missing, err := a.lookup(ctx)
	if err != nil {
		return err
	}
	secret := a.c.decoy
	if missing == nil {
		secret = a.config.Secret
	}
	token := jot.Join(m.Token.Header, m.Token.Before, m.Token.After, m.Token.Signature, secret.value)
	a.tr.TokenHash = sha256.Sum256([]byte(token))
	a.tr.AssetID, a.tr.NonceR, a.tr.HelloBody = m.AssetID, m.Nonce, body
	a.keys = wire.NewKeys(secret.value, a.tr.TokenHash)
	ok := a.keys.Verify(wire.RoleHello, &a.tr, m.MAC)
	if missing != nil {
		return missing
	}
	if !ok {
		return refuse("the client does not know the router's present secret: it was changed after the token was issued, or the client has no token")
	}
	return a.checkToken(token)
}

// lookup finds the router. missing says that it may not be onboarded; the
// caller then goes on with a decoy, so that the answer takes the same way.
func (a *attempt) lookup(ctx context.Context) (missing *refusal, err error) {
	r, err := a.c.cfg.Registry.cfg.Store.Get(ctx, NameKey(a.router))
	if errors.Is(err, ErrNotFound) {
		return refuse("no router of this name is configured"), nil
	}
	if err != nil {
		a.c.cfg.Logger.ErrorContext(ctx, "reading the store failed", slog.Any("err", err))
		return nil, refuse("the store cannot be read")
	}
	a.config, a.node = r, r.Node(a.assetID)
	a.known = a.node != nil
	switch {
	case a.node == nil:
		return refuse("the router has no node with this asset-id"), nil
	case r.Mode == ModeDisabled:
		return refuse("the router's mode is disabled"), nil
	}
	return nil, nil
}

func (a *attempt) checkToken(token string) error {
	s, w := a.snap.settings, &a.hello.Token
	split := &jot.Token{Header: w.Header, Before: w.Before, After: w.After, Signature: w.Signature}
	claims, err := a.snap.tokens.Verify(token, split, a.config.Secret.value, a.at)
	switch {
	case errors.Is(err, jot.ErrExpired):
		return refuse("the token has expired")
	case err != nil:
		return refuse("the token was altered, or issued with another key than the conductor's present one")
	case !slices.Equal(claims.PublicCert, s.Certificate.Raw) || !slices.Equal(claims.CACert, s.CA.Raw):
		return refuse("the conductor's certificate was changed after the token was issued")
	case claims.Router != a.router:
		return refuse("the token is for another router")
	case !slices.Contains(claims.AssetIDs, a.assetID):
		return refuse("the token is not for this asset-id")
	}
	a.proven, a.expires = true, claims.ExpiresAt.Time
	return nil
}

// no refuses a client that knows the secret.
func (a *attempt) no(format string, args ...any) error {
	r := refuse(format, args...)
	r.proven = true
	return r
}

func (a *attempt) sendChallenge() error {
	m := wire.Challenge{Mode: uint8(a.config.Mode), Credential: a.ev.challenge.Credential, Secret: a.ev.challenge.Secret}
	_, _ = rand.Read(m.Nonce[:])
	for _, p := range a.ev.pcrs {
		m.PCRs = append(m.PCRs, byte(p))
	}
	body, err := m.Marshal()
	if err != nil {
		return err
	}
	a.tr.Mode, a.tr.NonceC, a.tr.ChallengeBody = m.Mode, m.Nonce, body
	mac := a.keys.MAC(wire.RoleChallenge, &a.tr)
	return wire.WriteMessage(a.conn, wire.TypeChallenge, append(body, mac[:]...))
}

func (a *attempt) readProof() error {
	b, err := a.read(wire.TypeProof, wire.MaxMessage, proofTimeout)
	if err != nil {
		return err
	}
	m, body, err := wire.ParseProof(b)
	if err != nil {
		return a.no("%v", err)
	}
	deviceDigest, sshDigest := a.tr.Digest(wire.RoleDevice), a.tr.Digest(wire.RoleSSHKey)
	if a.ev.kind == EvidenceTPM {
		a.keys.Activated(a.ev.challenge.Activated)
	}
	a.tr.ProofBody = body
	if !a.keys.Verify(wire.RoleProof, &a.tr, m.MAC) {
		if a.ev.kind == EvidenceTPM {
			return a.no("the TPM did not activate the credential: attestation key and endorsement key are not in the same TPM")
		}
		return a.no("the proof's MAC does not verify")
	}
	if err := verifySSH(a.sshKey, sshDigest, m.SSHSignature); err != nil {
		return a.no("%v", err)
	}
	return a.ev.finish(a, m, deviceDigest)
}

// commit binds the asset-id and pins the SSH key in one atomic change.
func (a *attempt) commit(ctx context.Context, group string) error {
	reg := a.c.cfg.Registry
	sshKey := authorizedKey(a.sshKey)
	var bound Binding
	err := reg.cfg.Store.Update(ctx, a.router, func(r *Router) (*Router, error) {
		if r == nil || r.Mode != a.config.Mode || !r.Secret.Equal(a.config.Secret) {
			return nil, a.no("the router's configuration was changed during the attempt")
		}
		n := r.Node(a.assetID)
		if n == nil || n.EndorsementKey != a.node.EndorsementKey || !maps.Equal(n.PCRs, a.node.PCRs) {
			return nil, a.no("the router's configuration was changed during the attempt")
		}
		if !reg.now().Before(a.expires) {
			return nil, a.no("the token has expired during the attempt")
		}
		b, err := a.bind(r, n)
		if err != nil {
			return nil, err
		}
		s := &n.Status
		if s.SSHKey != "" && s.SSHKey != sshKey {
			// The bound device has a new SSH key: it was installed anew and
			// needs everything again.
			*s = Status{Binding: s.Binding}
		}
		bound = b
		s.Binding, s.SSHKey, s.TLSGroup = &b, sshKey, group
		s.Mode, s.Evidence, s.LastAttempt, s.LastError = r.Mode, a.ev.kind, a.at, ""
		reg.advance(n, StateAuthenticated)
		return r, nil
	})
	var r *refusal
	switch {
	case errors.As(err, &r):
		return err
	case errors.Is(err, ErrKeyTaken):
		return a.no("the SSH key is already pinned for another router")
	case err != nil:
		a.c.cfg.Logger.ErrorContext(ctx, "writing the store failed", slog.Any("err", err))
		return a.no("the store cannot be written")
	}
	a.c.cfg.Logger.InfoContext(ctx, "router onboarded", slog.String("router", a.router), slog.String("asset-id", a.assetID),
		slog.String("mode", a.config.Mode.String()), slog.String("evidence", a.ev.kind.String()), slog.String("key", bound.Kind+" "+bound.Fingerprint),
		slog.String("group", group), slog.String("remote", a.remote))
	reg.event(ctx, eventOnboarded, fmt.Sprintf("asset-id %q of router %q onboarded", a.assetID, a.router), true, eventDetail{
		Router: a.router, AssetID: a.assetID, Mode: a.config.Mode.String(), Evidence: a.ev.kind.String(),
		Key: bound.Kind + " " + bound.Fingerprint, SSHKey: ssh.FingerprintSHA256(a.sshKey), TLSGroup: group, Remote: a.remote,
	})
	return nil
}

// bind decides which key the asset-id is bound to from now on.
func (a *attempt) bind(r *Router, n *Node) (Binding, error) {
	for i := range r.Nodes {
		if o := &r.Nodes[i]; o != n && o.Status.SSHKey == authorizedKey(a.sshKey) {
			return Binding{}, a.no("the SSH key is already pinned for asset-id %q", o.AssetID)
		}
	}
	fresh := Binding{Kind: a.ev.lastingKind, Fingerprint: a.ev.lasting, Since: a.at}
	if fresh.Kind == "" {
		fresh.Kind, fresh.Fingerprint = bindSSHKey, ssh.FingerprintSHA256(a.sshKey)
	}
	old := n.Status.Binding
	switch {
	case old == nil:
		return fresh, nil
	case old.Kind == fresh.Kind && old.Fingerprint == fresh.Fingerprint:
		return *old, nil
	case old.Kind == bindSSHKey && old.Fingerprint == ssh.FingerprintSHA256(a.sshKey):
		// The very device that was bound by its SSH key now shows a key that
		// lasts longer.
		return fresh, nil
	}
	return Binding{}, a.no("asset-id %q is bound to the %s %s, this device has the %s %s: release it if the part was replaced",
		n.AssetID, old.Kind, old.Fingerprint, fresh.Kind, fresh.Fingerprint)
}

func (a *attempt) sendAccept() error {
	s := a.snap.settings
	m := wire.Accept{Node: a.node.Name, HostKeys: a.snap.hostKeys, SSHPort: s.sshPort(), Addresses: s.SSHAddresses}
	body, err := m.Marshal()
	if err != nil {
		return err
	}
	a.tr.AcceptBody = body
	mac := a.keys.MAC(wire.RoleAccept, &a.tr)
	_ = a.conn.SetDeadline(time.Now().Add(ackTimeout))
	return wire.WriteMessage(a.conn, wire.TypeAccept, append(body, mac[:]...))
}

// finish waits for the router to say that it has stored everything. Without that
// the router just runs again, or connects: both move the state forward.
func (a *attempt) finish(ctx context.Context) error {
	log := a.c.cfg.Logger.With(slog.String("router", a.router), slog.String("asset-id", a.assetID))
	b, err := a.read(wire.TypeAck, wire.MACLen, ackTimeout)
	if err != nil {
		log.InfoContext(ctx, "the router was accepted, but did not say that it stored the result; it will run again", slog.Any("err", err))
		return nil
	}
	m, _, err := wire.ParseAck(b)
	if err != nil || !a.keys.Verify(wire.RoleAck, &a.tr, m.MAC) {
		log.WarnContext(ctx, "the router's acknowledgement does not verify")
		return nil
	}
	err = a.c.cfg.Registry.updateNode(ctx, a.router, a.assetID, func(_ *Router, n *Node) error {
		if n.Status.State >= StateKeysExchanged || n.Status.SSHKey != authorizedKey(a.sshKey) {
			return errUnchanged
		}
		a.c.cfg.Registry.advance(n, StateKeysExchanged)
		return nil
	})
	if err != nil {
		log.ErrorContext(ctx, "writing the store failed", slog.Any("err", err))
	}
	return nil
}
