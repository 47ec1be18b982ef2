package sco_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/sco"
)

// Keys that many tests share: making RSA keys is slow.
var (
	rsaOnce sync.Once
	rsaKey  *rsa.PrivateKey
)

func sharedRSA(tb testing.TB) *rsa.PrivateKey {
	rsaOnce.Do(func() {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		rsaKey = k
	})
	require.NotNil(tb, rsaKey)
	return rsaKey
}

func ecKey(tb testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	require.NoError(tb, err)
	return k
}

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(tb testing.TB, name string) *authority {
	tb.Helper()
	key := ecKey(tb, elliptic.P256())
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	return &authority{cert, key}
}

func (a *authority) issue(tb testing.TB, pub crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	tb.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(900 * time.Hour),
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	return cert
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// events collects the audit record.
type events struct {
	mu  sync.Mutex
	all []mooring.Event
}

func (e *events) RecordEvent(_ context.Context, ev mooring.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) of(typ string) (out []mooring.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Type == typ {
			out = append(out, ev)
		}
	}
	return out
}

func (e *events) reason(tb testing.TB) string {
	tb.Helper()
	all := e.of("sco.attempt_refused")
	require.NotEmpty(tb, all)
	var d struct{ Reason string }
	require.NoError(tb, json.Unmarshal(all[len(all)-1].Detail, &d))
	return d.Reason
}

// world is a conductor that is served on the loopback interface.
type world struct {
	tb       testing.TB
	ca       *authority
	settings atomic.Pointer[sco.Settings]
	store    sco.RouterStore
	events   *events
	offset   atomic.Int64 // of the conductor's clock
	reg      *sco.Registry
	cond     *sco.Conductor
	addr     string
	stop     func()
}

type option func(*world, *sco.ConductorConfig)

func withStore(s sco.RouterStore) option {
	return func(w *world, _ *sco.ConductorConfig) { w.store = s }
}

func withLimits(l sco.Limits) option {
	return func(_ *world, c *sco.ConductorConfig) { c.Limits = l }
}

func withKey(k crypto.Signer) option {
	return func(w *world, _ *sco.ConductorConfig) { w.useKey(k) }
}

func newWorld(tb testing.TB, opts ...option) *world {
	tb.Helper()
	w := &world{tb: tb, ca: newAuthority(tb, "conductor CA"), store: &sco.MemoryStore{}, events: &events{}}
	w.useKey(ecKey(tb, elliptic.P256()))
	cfg := sco.ConductorConfig{
		Settings: w.getSettings,
		Limits:   sco.Limits{Rate: 1e6, Burst: 1e6},
	}
	for _, o := range opts {
		o(w, &cfg)
	}
	var err error
	w.reg, err = sco.NewRegistry(sco.RegistryConfig{Store: w.store, Node: "conductor-a", Events: w.events, Now: w.now})
	require.NoError(tb, err)
	cfg.Registry = w.reg
	w.cond, err = sco.NewConductor(cfg)
	require.NoError(tb, err)
	w.serve()
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

func (w *world) useKey(key crypto.Signer) {
	_, host, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(w.tb, err)
	signer, err := ssh.NewSignerFromKey(host)
	require.NoError(w.tb, err)
	w.settings.Store(&sco.Settings{
		Certificate: w.ca.issue(w.tb, key.Public(), nil), Key: key, CA: w.ca.cert,
		SSHHostKeys: []ssh.PublicKey{signer.PublicKey()}, SSHPort: 2222,
	})
}

func (w *world) getSettings(context.Context) (*sco.Settings, error) { return w.settings.Load(), nil }

func (w *world) change(f func(*sco.Settings)) {
	s := *w.settings.Load()
	f(&s)
	w.settings.Store(&s)
}

// serve starts, or after stop restarts, the conductor.
func (w *world) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.tb, err)
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.cond.Serve(ctx, ln) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(w.tb, <-done)
	})
	w.tb.Cleanup(w.stop)
}

func (w *world) router(name string, mode sco.Mode, change ...func(*sco.Router)) {
	w.tb.Helper()
	err := w.reg.Configure(context.Background(), name, func(r *sco.Router, exists bool) error {
		r.Mode = mode
		if !exists {
			r.InterNodeSecurity = "internal"
			r.Nodes = []sco.Node{{Name: "node0", AssetID: name + "-0", Role: "combo"}}
		}
		for _, f := range change {
			f(r)
		}
		return nil
	})
	require.NoError(w.tb, err)
}

func (w *world) issuer() *sco.Issuer {
	w.tb.Helper()
	i, err := sco.NewIssuer(sco.IssuerConfig{Registry: w.reg, Settings: w.getSettings, Addresses: []string{w.addr}})
	require.NoError(w.tb, err)
	return i
}

func (w *world) token(router string) sco.Token {
	w.tb.Helper()
	t, err := w.issuer().IssueToken(context.Background(), router, 0)
	require.NoError(w.tb, err)
	return t
}

func (w *world) node(router, asset string) *sco.Node {
	w.tb.Helper()
	r, err := w.reg.Get(context.Background(), router)
	require.NoError(w.tb, err)
	n := r.Node(asset)
	require.NotNil(w.tb, n)
	return n
}

// onboard runs the router's side in dir.
func (w *world) onboard(dir string, t sco.Token, signer sco.Signer, change ...func(*sco.OnboardConfig)) (*sco.Enrollment, error) {
	w.tb.Helper()
	cfg := sco.OnboardConfig{
		Dir: dir, Token: t, Addresses: []string{w.addr}, Signer: signer,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return sco.Onboard(ctx, cfg)
}

// refused demands that the attempt was refused with the reason, in the router's
// state and in the audit record.
func (w *world) refused(err error, router, asset, reason string) {
	w.tb.Helper()
	require.ErrorIs(w.tb, err, sco.ErrRefused)
	require.Contains(w.tb, w.events.reason(w.tb), reason)
	n := w.node(router, asset)
	require.Contains(w.tb, n.Status.LastError, reason)
	require.False(w.tb, n.Status.LastAttempt.IsZero())
}
