package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tpmsigner"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// powerOn is the router's first power-on: its TPM answers and has an
// endorsement key.
func powerOn(ctx context.Context, w *world) (facts, error) {
	var err error
	if w.tpm, err = tpmsim.Open(); err != nil {
		return nil, err
	}
	if err := w.tpm.ProvisionEK(nil); err != nil {
		return nil, err
	}
	if w.ek, err = tpmsigner.EndorsementKey(ctx, w.tpm, tpmsigner.Any); err != nil {
		return nil, err
	}
	return facts{{"asset-id", assetID}, {"endorsement key", short(w.ek, 48)}}, nil
}

// setUpConductor makes the conductor's certificates and tells it of the router.
func setUpConductor(ctx context.Context, w *world) (facts, error) {
	var err error
	if w.ca, err = newAuthority("Example Organisation CA"); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := w.ca.issue(hostname, key.Public(), x509.ExtKeyUsageServerAuth, "")
	if err != nil {
		return nil, err
	}
	_, sshKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.NewSignerFromKey(sshKey)
	if err != nil {
		return nil, err
	}
	w.settings = &sco.Settings{
		Certificate: cert, Key: key, CA: w.ca.cert,
		SSHHostKeys: []ssh.PublicKey{hostKey.PublicKey()},
	}
	w.registry, err = sco.NewRegistry(sco.RegistryConfig{Store: &sco.MemoryStore{}, Node: "conductor0", Events: w.events})
	if err != nil {
		return nil, err
	}
	err = w.registry.Configure(ctx, routerName, func(r *sco.Router, exists bool) error {
		r.Mode = sco.ModeStrong
		r.InterNodeSecurity = "internal"
		r.Nodes = []sco.Node{{Name: nodeName, AssetID: assetID, Role: "combo", EndorsementKey: w.ek}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := w.startConductor(hostKey); err != nil {
		return nil, err
	}
	return facts{{"certificate", cert.Subject.String()}, {"signed by", w.ca.cert.Subject.String()}, {"router", routerName}, {"mode", "strong"}}, nil
}

// startConductor serves the onboarding port and the SSH port.
func (w *world) startConductor(hostKey ssh.Signer) error {
	settings := func(context.Context) (*sco.Settings, error) { return w.settings, nil }
	onboarding, err := listen()
	if err != nil {
		return err
	}
	tunnels, err := listen()
	if err != nil {
		return errors.Join(err, onboarding.Close())
	}
	w.settings.SSHAddresses = []string{tunnels.Addr().String()}
	if w.issuer, err = sco.NewIssuer(sco.IssuerConfig{
		Registry: w.registry, Settings: settings, Addresses: []string{onboarding.Addr().String()},
	}); err != nil {
		return err
	}
	conductor, err := sco.NewConductor(sco.ConductorConfig{Registry: w.registry, Settings: settings})
	if err != nil {
		return err
	}
	dial, err := tunnel.ParseRules("127.0.0.1:*")
	if err != nil {
		return err
	}
	link := &link{registry: w.registry, initialized: w.initialized, ids: map[string]string{}}
	w.server, err = tunnel.NewServer(tunnel.ServerConfig{
		HostKeys:    []ssh.Signer{hostKey},
		Authorizer:  link,
		Observer:    link,
		Initializer: link,
		Policy:      func(tunnel.Peer) tunnel.Policy { return tunnel.Policy{Dial: dial} },
	})
	if err != nil {
		return err
	}
	w.serve(func(ctx context.Context) { _ = conductor.Serve(ctx, onboarding) })
	w.serve(func(ctx context.Context) { _ = w.server.Serve(ctx, tunnels) })
	return nil
}

// issueToken makes the token that somebody carries to the router.
func issueToken(ctx context.Context, w *world) (facts, error) {
	lifetime, err := sco.ParseLifetime("1d")
	if err != nil {
		return nil, err
	}
	if w.token, err = w.issuer.IssueToken(ctx, routerName, lifetime); err != nil {
		return nil, err
	}
	return facts{
		{"for", strings.Join(w.token.AssetIDs(), ", ")},
		{"expires", w.token.Expires().UTC().Format(time.RFC3339)},
		{"printed", fmt.Sprint(w.token)},
	}, nil
}

// impostor is a machine with a TPM of its own that got hold of the token.
func impostor(ctx context.Context, w *world) (facts, error) {
	_, err := sco.Onboard(ctx, sco.OnboardConfig{
		Dir: filepath.Join(w.dir, "impostor"), Token: w.token, AssetID: assetID,
		Signer: sco.SelfSigned(), Logger: slog.New(slog.DiscardHandler),
	})
	if !errors.Is(err, sco.ErrRefused) {
		return nil, fmt.Errorf("a machine without the router's TPM was not refused: %v", err)
	}
	r, err := w.registry.Get(ctx, routerName)
	if err != nil {
		return nil, err
	}
	return facts{{"answer", "refused"}, {"conductor's reason", r.Nodes[0].Status.LastError}}, nil
}

// onboard authenticates router and conductor to each other and exchanges the
// SSH keys.
func onboard(ctx context.Context, w *world) (facts, error) {
	signer, err := tpmsigner.New(tpmsigner.Config{TPM: w.tpm})
	if err != nil {
		return nil, err
	}
	w.enrollment, err = sco.Onboard(ctx, sco.OnboardConfig{
		Dir: filepath.Join(w.dir, "router"), Token: w.token, AssetID: assetID, Signer: signer,
	})
	if err != nil {
		return nil, err
	}
	r, err := w.registry.Get(ctx, routerName)
	if err != nil {
		return nil, err
	}
	status := r.Nodes[0].Status
	return facts{
		{"state", status.State.String()},
		{"evidence", status.Evidence.String()},
		{"TLS group", status.TLSGroup},
		{"bound to", status.Binding.Kind + " " + short(status.Binding.Fingerprint, 16)},
		{"conductor's SSH key", ssh.FingerprintSHA256(w.enrollment.HostKeys[0])},
	}, nil
}

// keepTunnel starts the tunnel and waits until the conductor has initialized the
// router over it.
func keepTunnel(ctx context.Context, w *world) (facts, error) {
	applied := make(chan []byte, 1)
	var err error
	w.client, err = tunnel.NewClient(tunnel.ClientConfig{
		Addresses: w.enrollment.SSHAddresses, HostKeys: w.enrollment.HostKeys, Signer: w.enrollment.Signer(),
		Applier: applier(func(config []byte) { applied <- config }),
	})
	if err != nil {
		return nil, err
	}
	w.serve(func(ctx context.Context) { _ = w.client.Run(ctx) })
	var config []byte
	select {
	case config = <-applied:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the initial configuration: %w", ctx.Err())
	}
	select {
	case <-w.initialized:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the conductor: %w", ctx.Err())
	}
	r, err := w.registry.Get(ctx, routerName)
	if err != nil {
		return nil, err
	}
	return facts{
		{"key exchange", w.server.Sessions()[0].KeyExchange},
		{"configuration", string(config)},
		{"state", r.Nodes[0].Status.State.String()},
	}, nil
}

// useTunnel has the router reach a service on the conductor through the tunnel.
func useTunnel(ctx context.Context, w *world) (facts, error) {
	service, err := listen()
	if err != nil {
		return nil, err
	}
	defer service.Close()
	const greeting = "hello through port 930"
	w.serve(func(context.Context) {
		if conn, err := service.Accept(); err == nil {
			_, _ = io.WriteString(conn, greeting)
			_ = conn.Close()
		}
	})
	conn, err := w.client.Dial(ctx, service.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	got, err := io.ReadAll(io.LimitReader(conn, 1024))
	if err != nil {
		return nil, err
	}
	if string(got) != greeting {
		return nil, fmt.Errorf("got %q through the tunnel", got)
	}
	return facts{{"received", string(got)}}, nil
}

// applier puts the configuration that the conductor delivers in force.
type applier func(config []byte)

func (f applier) Apply(_ context.Context, config []byte) (tunnel.Result, error) {
	f(config)
	return tunnel.Applied, nil
}

// link joins the tunnel server to the registry. Two packages meet here that do
// not know each other.
type link struct {
	registry    *sco.Registry
	initialized chan<- string

	mu  sync.Mutex
	ids map[string]string // of the registry, by the tunnel's
}

func (l *link) AuthorizeKey(ctx context.Context, _ string, key ssh.PublicKey) (tunnel.Peer, error) {
	p, err := l.registry.Lookup(ctx, key)
	if errors.Is(err, sco.ErrUnknownKey) {
		return tunnel.Peer{}, tunnel.ErrUnauthorized
	}
	return tunnel.Peer{Router: p.Router, Node: p.Node, AssetID: p.AssetID}, err
}

func (l *link) Connected(ctx context.Context, s tunnel.Session) {
	id, err := l.registry.Connected(ctx, peerOf(s.Peer), s.RemoteAddr)
	if err != nil {
		return // The router was removed in between; the server closes the session.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids[s.ID] = id
}

func (l *link) Disconnected(ctx context.Context, s tunnel.Session, reason error) {
	l.mu.Lock()
	id := l.ids[s.ID]
	delete(l.ids, s.ID)
	l.mu.Unlock()
	_ = l.registry.Disconnected(ctx, peerOf(s.Peer), id, reason.Error())
}

func (l *link) Configuration(_ context.Context, p tunnel.Peer) ([]byte, error) {
	return fmt.Appendf(nil, "router %s node %s", p.Router, p.Node), nil
}

func (l *link) Initialized(ctx context.Context, p tunnel.Peer, r tunnel.Result, problem string) error {
	if r != tunnel.Applied {
		return fmt.Errorf("the router answered %s: %s", r, problem)
	}
	if err := l.registry.Initialized(ctx, peerOf(p)); err != nil {
		return err
	}
	select {
	case l.initialized <- p.AssetID:
	default:
	}
	return nil
}

func peerOf(p tunnel.Peer) sco.Peer {
	return sco.Peer{Router: p.Router, Node: p.Node, AssetID: p.AssetID}
}

// short cuts a long text for people.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
