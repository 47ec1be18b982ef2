package sco

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// OnboardConfig configures [Onboard].
type OnboardConfig struct {
	// Dir is where the router keeps its SSH key and the result. It is made
	// when it does not exist, and one Onboard uses it at a time. Required.
	Dir string
	// Token is required.
	Token Token
	// Addresses are the conductors' onboarding ports, HOST:PORT, tried in
	// this order; those of the token when empty.
	Addresses []string
	// AssetID is this node's; may be empty when the token has only one.
	AssetID string
	// Signer proves the device's identity; [SelfSigned] when nil.
	Signer Signer
	// InstallCA, when not nil, makes the conductor's CA certificate a trusted
	// one on this system. It is called at every run that asks the conductor,
	// before the result is stored, so it must not mind that the certificate
	// is there already. A run that only returns the stored result does not
	// call it.
	InstallCA func(ctx context.Context, ca *x509.Certificate) error
	// Dial connects to a conductor; a [net.Dialer] with a timeout when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger is nil for silence.
	Logger *slog.Logger
	// Now is time.Now when nil.
	Now func() time.Time

	durable durable.Writer
}

func (cfg *OnboardConfig) complete() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("sco: OnboardConfig."+format, args...))
	}
	if cfg.Dir == "" {
		bad("Dir is missing")
	}
	if cfg.Token.IsZero() {
		bad("Token is missing")
	}
	if len(cfg.Addresses) == 0 {
		cfg.Addresses = cfg.Token.Addresses()
	}
	if n := len(cfg.Addresses); n == 0 || n > maxAddresses {
		bad("Addresses has %d entries and the token none: there are 1..%d", n, maxAddresses)
	}
	for _, a := range cfg.Addresses {
		if err := checkAddress(a); err != nil {
			bad("Addresses: %w", err)
		}
	}
	ids := cfg.Token.AssetIDs()
	switch {
	case cfg.AssetID == "" && len(ids) == 1:
		cfg.AssetID = ids[0]
	case cfg.AssetID == "":
		bad("AssetID is missing and the token does not have exactly one")
	case !cfg.Token.IsZero() && !slices.Contains(ids, cfg.AssetID):
		bad("AssetID %.140q is not one of the token's %.300q", cfg.AssetID, ids)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if cfg.Signer == nil {
		cfg.Signer = SelfSigned()
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: tlsTimeout}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}

// Onboard makes this machine known to its conductor, and the conductor to it:
// it connects to the first conductor that answers, proves itself, stores what
// it learns durably in cfg.Dir, and only then says that it is done.
//
// It may be run again at any time, after a crash or a lost answer just as after
// success: the same router with the same key gets the same result. Once a router
// is onboarded, a later run with the same token, which has expired by the
// router's clock, returns the stored result without asking the conductor.
//
// A conductor's refusal is [ErrRefused], one that is not the token's conductor
// [ErrConductor]; when several addresses were tried the error has all of theirs.
// After an error what [LoadEnrollment] returns is unchanged, or, when the error
// comes from storing, old or new as a whole. The CA's certificate and the
// known_hosts file for other programs are written before it, so they, and what
// InstallCA did, may be new already; the next run puts that right.
func Onboard(ctx context.Context, cfg OnboardConfig) (*Enrollment, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := cfg.durable.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("sco: making the router's directory: %w", err)
	}
	// Other programs of the router may keep files in the directory and write
	// them now.
	if err := cfg.durable.Sweep(cfg.Dir, ownFiles()...); err != nil {
		return nil, fmt.Errorf("sco: sweeping the router's directory: %w", err)
	}
	hash := cfg.Token.hash()
	if e, err := LoadEnrollment(cfg.Dir); err == nil && e.tokenHash == hex.EncodeToString(hash[:]) &&
		e.AssetID == cfg.AssetID && cfg.Now().After(cfg.Token.Expires()) {
		return e, nil
	}
	key, err := sshKey(cfg.durable, cfg.Dir)
	if err != nil {
		return nil, err
	}
	// The evidence is made before the connection: a TPM takes longer than a
	// conductor waits for a stranger's first message.
	ev, err := cfg.Signer.Evidence(ctx)
	if err != nil {
		return nil, fmt.Errorf("sco: device evidence: %w", err)
	}
	var errs []error
	for _, address := range cfg.Addresses {
		p := &pledge{cfg: &cfg, address: address, sshKey: key, evidence: &ev}
		e, err := p.run(ctx)
		if err == nil {
			return e, nil
		}
		cfg.Logger.WarnContext(ctx, "onboarding failed", slog.String("conductor", address), slog.Any("err", err))
		errs = append(errs, fmt.Errorf("conductor %s: %w", address, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// pledge is one run of the protocol on the router's side.
type pledge struct {
	cfg      *OnboardConfig
	address  string
	sshKey   ssh.Signer
	evidence *Evidence

	conn *tls.Conn
	tr   wire.Transcript
	keys *wire.Keys
}

func (p *pledge) run(ctx context.Context) (*Enrollment, error) {
	raw, err := p.cfg.Dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, fmt.Errorf("sco: connecting: %w", err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	_ = raw.SetDeadline(time.Now().Add(tlsTimeout))
	p.conn = tls.Client(raw, p.clientTLS())
	if err := p.conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("sco: TLS: %w", err)
	}
	cs := p.conn.ConnectionState()
	exporter, err := channelBinding(&cs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConductor, err)
	}
	p.tr = wire.Transcript{Exporter: exporter, TokenHash: p.cfg.Token.hash(), AssetID: p.cfg.AssetID}
	p.keys = wire.NewKeys(string(p.cfg.Token.parsed.Claims.Secret), p.tr.TokenHash)
	if err := p.sendHello(); err != nil {
		return nil, err
	}
	ch, err := p.readChallenge()
	if err != nil {
		return nil, err
	}
	if err := p.sendProof(ctx, ch); err != nil {
		return nil, err
	}
	e, err := p.readAccept()
	if err != nil {
		return nil, err
	}
	if p.cfg.InstallCA != nil {
		if err := p.cfg.InstallCA(ctx, e.CA); err != nil {
			return nil, fmt.Errorf("sco: installing the conductor's CA: %w", err)
		}
	}
	if err := e.store(p.cfg.durable, p.cfg.Dir); err != nil {
		return nil, err
	}
	// The result is stored, so the router is onboarded whether or not the
	// conductor hears of it: the tunnel tells it as well.
	mac := p.keys.MAC(wire.RoleAck, &p.tr)
	_ = raw.SetDeadline(time.Now().Add(helloTimeout))
	if err := wire.WriteMessage(p.conn, wire.TypeAck, mac[:]); err != nil {
		p.cfg.Logger.InfoContext(ctx, "the acknowledgement was not delivered", slog.Any("err", err))
	} else {
		_ = p.conn.CloseWrite()
		p.drain()
	}
	return e, nil
}

// drain waits for the conductor to close, so that its state is written when
// Onboard returns.
func (p *pledge) drain() {
	var b [1]byte
	for {
		if _, err := p.conn.Read(b[:]); err != nil {
			return
		}
	}
}

// clientTLS trusts exactly the token's certificate, signed by the token's CA. The
// usual verification is replaced, not left out: it would look at host names,
// which are not what a conductor is known by, and at the system's roots.
func (p *pledge) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       curves(),
		NextProtos:             []string{wire.ALPN},
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true,
		VerifyConnection:       p.verifyConductor,
	}
}

func (p *pledge) verifyConductor(cs tls.ConnectionState) error {
	t := p.cfg.Token.parsed
	if len(cs.PeerCertificates) == 0 || !bytes.Equal(cs.PeerCertificates[0].Raw, t.Cert.Raw) {
		return fmt.Errorf("%w: it shows another certificate", ErrConductor)
	}
	roots := x509.NewCertPool()
	roots.AddCert(t.CA)
	// A router's clock may stand at its factory's value: it is at least as
	// late as the token.
	now := p.cfg.Now()
	if issued := t.Claims.IssuedAt.Time; now.Before(issued) {
		now = issued
	}
	_, err := t.Cert.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConductor, err)
	}
	return nil
}

func (p *pledge) sendHello() error {
	t, ev := p.cfg.Token.parsed, p.evidence
	m := wire.Hello{
		Version: wire.Version, Router: t.Claims.Router, AssetID: p.cfg.AssetID,
		Token:  wire.Token{Header: t.Header, Before: t.Before, After: t.After, Signature: t.Signature},
		SSHKey: p.sshKey.PublicKey().Marshal(),
		Kind:   uint8(ev.Kind), Certificates: ev.Certificates, EK: ev.EndorsementKey,
		AK: ev.AttestationKey, CreationData: ev.CreationData,
		CreationAttest: ev.CreationAttestation, CreationSigning: ev.CreationSignature,
	}
	_, _ = rand.Read(m.Nonce[:])
	body, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("sco: %w", err)
	}
	p.tr.NonceR, p.tr.HelloBody = m.Nonce, body
	mac := p.keys.MAC(wire.RoleHello, &p.tr)
	return p.write(wire.TypeHello, append(body, mac[:]...))
}

func (p *pledge) write(typ uint8, b []byte) error {
	_ = p.conn.SetDeadline(time.Now().Add(helloTimeout))
	if err := wire.WriteMessage(p.conn, typ, b); err != nil {
		return fmt.Errorf("sco: sending message %d: %w", typ, err)
	}
	return nil
}

func (p *pledge) read(typ uint8) ([]byte, error) {
	_ = p.conn.SetDeadline(time.Now().Add(ackTimeout))
	got, b, err := wire.ReadMessage(p.conn, wire.MaxMessage)
	switch {
	case err != nil:
		return nil, fmt.Errorf("sco: waiting for message %d: %w", typ, err)
	case got == wire.TypeRefuse:
		return nil, ErrRefused
	case got != typ:
		return nil, fmt.Errorf("%w: message %d instead of %d", ErrConductor, got, typ)
	}
	return b, nil
}

func (p *pledge) readChallenge() (*wire.Challenge, error) {
	b, err := p.read(wire.TypeChallenge)
	if err != nil {
		return nil, err
	}
	m, body, err := wire.ParseChallenge(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConductor, err)
	}
	if m.Nonce == p.tr.NonceR {
		return nil, fmt.Errorf("%w: it sent the router's own nonce", ErrConductor)
	}
	p.tr.Mode, p.tr.NonceC, p.tr.ChallengeBody = m.Mode, m.Nonce, body
	if !p.keys.Verify(wire.RoleChallenge, &p.tr, m.MAC) {
		return nil, fmt.Errorf("%w: it does not know the secret", ErrConductor)
	}
	return m, nil
}

func (p *pledge) sendProof(ctx context.Context, ch *wire.Challenge) error {
	sshSig, err := signSSH(p.sshKey, p.tr.Digest(wire.RoleSSHKey))
	if err != nil {
		return err
	}
	c := Challenge{Digest: p.tr.Digest(wire.RoleDevice), Credential: ch.Credential, Secret: ch.Secret}
	for _, pcr := range ch.PCRs {
		c.PCRs = append(c.PCRs, int(pcr))
	}
	proof, err := p.cfg.Signer.Prove(ctx, c)
	if err != nil {
		return fmt.Errorf("sco: device proof: %w", err)
	}
	m := wire.Proof{
		SSHSignature: sshSig, DeviceSignature: proof.Signature,
		Quote: proof.Quote, QuoteSignature: proof.QuoteSignature, PCRValues: proof.PCRValues,
	}
	body, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("sco: %w", err)
	}
	if p.evidence.Kind == EvidenceTPM {
		p.keys.Activated(proof.ActivatedSecret)
	}
	p.tr.ProofBody = body
	mac := p.keys.MAC(wire.RoleProof, &p.tr)
	return p.write(wire.TypeProof, append(body, mac[:]...))
}

func (p *pledge) readAccept() (*Enrollment, error) {
	b, err := p.read(wire.TypeAccept)
	if err != nil {
		return nil, err
	}
	m, body, err := wire.ParseAccept(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConductor, err)
	}
	p.tr.AcceptBody = body
	if !p.keys.Verify(wire.RoleAccept, &p.tr, m.MAC) {
		return nil, fmt.Errorf("%w: its answer's MAC does not verify", ErrConductor)
	}
	t := p.cfg.Token.parsed
	e := &Enrollment{
		Router: t.Claims.Router, Node: m.Node, AssetID: p.cfg.AssetID, CA: t.CA,
		SSHAddresses: m.Addresses, InitialConfig: t.Claims.InitialConfig,
		At: p.cfg.Now().UTC().Truncate(time.Second), tokenHash: hex.EncodeToString(p.tr.TokenHash[:]), sshKey: p.sshKey,
	}
	for _, hk := range m.HostKeys {
		key, err := parseSSHKey(hk)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConductor, err)
		}
		e.HostKeys = append(e.HostKeys, key)
	}
	if len(e.SSHAddresses) == 0 {
		e.SSHAddresses = p.sshAddresses(m.SSHPort)
	}
	// What is stored must be what can be read back.
	enc, err := e.encode()
	if err == nil {
		_, err = decodeEnrollment(enc)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its answer cannot be used: %w", ErrConductor, err)
	}
	return e, nil
}

// sshAddresses are the hosts of the onboarding addresses, the one that answered
// first.
func (p *pledge) sshAddresses(port uint16) []string {
	var out []string
	for _, a := range append([]string{p.address}, p.cfg.Addresses...) {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			continue
		}
		if s := net.JoinHostPort(host, strconv.Itoa(int(port))); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
