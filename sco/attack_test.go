package sco_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/jot"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

func (w *world) noRefusalYet(router string) {
	w.tb.Helper()
	require.Equal(w.tb, sco.StateWaiting, w.node(router, router+"-0").Status.State)
	require.Nil(w.tb, w.node(router, router+"-0").Status.Binding)
}

// TestMalloryIsHonest makes sure that what the attacks below change is what they
// fail for.
func TestMalloryIsHonest(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	m := w.mallory(w.token("r").Reveal(), sco.SelfSigned())
	m.sendHello(nil)
	m.readChallenge()
	m.sendProof(m.honestProof())
	m.accepted()
}

// relay is a man in the middle that has the conductor's certificate and key, and
// so two perfect TLS connections; it hands every message on unchanged, or
// changed.
func relay(t *testing.T, cert tls.Certificate, conductor string, change func(fromRouter bool, typ uint8, b []byte) []byte) (addr string, seen func() int) {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{wire.ALPN},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	var mu sync.Mutex
	count := 0
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	pump := func(dst, src net.Conn, fromRouter bool) {
		for {
			typ, b, err := wire.ReadMessage(src, wire.MaxHello)
			if err != nil {
				_ = dst.Close()
				return
			}
			mu.Lock()
			count++
			mu.Unlock()
			if change != nil {
				b = change(fromRouter, typ, b)
			}
			if wire.WriteMessage(dst, typ, b) != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			router, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := tls.Dial("tcp", conductor, clientConfig())
			if err != nil {
				_ = router.Close()
				continue
			}
			wg.Go(func() { pump(up, router, true) })
			wg.Go(func() { pump(router, up, false) })
		}
	})
	return ln.Addr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// Relay: not even with the conductor's own key can a proof be carried from one
// connection to another.
func TestAttackRelayWithStolenConductorKey(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	s := w.settings.Load()
	addr, _ := relay(t, tls.Certificate{Certificate: [][]byte{s.Certificate.Raw}, PrivateKey: s.Key}, w.addr, nil)
	_, err := w.onboard(t.TempDir(), w.token("r"), nil, func(c *sco.OnboardConfig) { c.Addresses = []string{addr} })
	require.Error(t, err)
	require.Contains(t, w.events.reason(t), "does not know the router's present secret")
	w.noRefusalYet("r")
}

// Relay: a man in the middle without the key does not hear one byte.
func TestAttackManInTheMiddleHearsNothing(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	key := ecKey(t, elliptic.P256())
	for name, cert := range map[string]tls.Certificate{
		"own CA":             {Certificate: [][]byte{newAuthority(t, "evil").issue(t, key.Public(), nil).Raw}, PrivateKey: key},
		"the conductor's CA": {Certificate: [][]byte{w.ca.issue(t, key.Public(), nil).Raw}, PrivateKey: key},
	} {
		t.Run(name, func(t *testing.T) {
			addr, seen := relay(t, cert, w.addr, nil)
			_, err := w.onboard(t.TempDir(), w.token("r"), nil, func(c *sco.OnboardConfig) { c.Addresses = []string{addr} })
			require.ErrorIs(t, err, sco.ErrConductor)
			require.Zero(t, seen())
			w.noRefusalYet("r")
		})
	}
}

// Token theft: neither the secret nor the token is in what a router sends, even
// to somebody who has the conductor's key.
func TestAttackSecretNeverOnTheWire(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	s := w.settings.Load()
	token := w.token("r")
	var mu sync.Mutex
	var sent bytes.Buffer
	addr, seen := relay(t, tls.Certificate{Certificate: [][]byte{s.Certificate.Raw}, PrivateKey: s.Key}, w.addr,
		func(_ bool, _ uint8, b []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			sent.Write(b)
			return b
		})
	_, err := w.onboard(t.TempDir(), token, nil, func(c *sco.OnboardConfig) { c.Addresses = []string{addr} })
	require.Error(t, err)
	require.NotZero(t, seen())
	r, err := w.reg.Get(context.Background(), "r")
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	secret := []byte(r.Secret.Reveal())
	for _, leak := range [][]byte{
		secret, []byte(base64.StdEncoding.EncodeToString(secret)), []byte(base64.RawURLEncoding.EncodeToString(secret)), []byte(token.Reveal()),
	} {
		require.False(t, bytes.Contains(sent.Bytes(), leak))
	}
	require.True(t, bytes.Contains(sent.Bytes(), []byte("r-0")), "the hello was seen")
}

// Replay: the messages of one run are worth nothing in another.
func TestAttackReplay(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	token := w.token("r").Reveal()
	m := w.mallory(token, sco.SelfSigned())
	m.sendHello(nil)
	m.readChallenge()
	proof := m.honestProof()
	helloBody, helloMAC := m.tr.HelloBody, m.keys.MAC(wire.RoleHello, &wire.Transcript{
		Exporter: m.tr.Exporter, TokenHash: m.tr.TokenHash, AssetID: m.asset, NonceR: m.tr.NonceR, HelloBody: m.tr.HelloBody})
	m.sendProof(proof)
	m.accepted()

	// The whole first message, as it was.
	again := w.mallory(token, sco.SelfSigned())
	require.NoError(t, wire.WriteMessage(again.conn, wire.TypeHello, append(bytes.Clone(helloBody), helloMAC[:]...)))
	again.refused()
	require.Contains(t, w.events.reason(t), "does not know")

	// The same first message by somebody who can make a new MAC for it, and
	// the old proof: the attacker has the secret but not the keys.
	again = w.mallory(token, sco.SelfSigned())
	again.sendBody(m.hello)
	again.readChallenge()
	again.sendProof(proof)
	again.refused()
	require.Contains(t, w.events.reason(t), "SSH key's signature does not verify")
}

// Cut and paste: each part of a proof belongs to its own run.
func TestAttackCutAndPaste(t *testing.T) {
	maker := newAuthority(t, "maker")
	key := ecKey(t, elliptic.P256())
	w := newWorld(t)
	w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
	w.router("r", sco.ModeStrong)
	token := w.token("r").Reveal()
	sshKey := newSSHKey(t)
	begin := func() *mallory {
		m := w.mallory(token, deviceID(t, maker, key, "r-0"))
		m.key = sshKey
		m.sendHello(nil)
		m.readChallenge()
		return m
	}
	old := begin().honestProof()
	for name, c := range map[string]struct {
		paste  func(p *wire.Proof)
		reason string
	}{
		"device signature of another run": {func(p *wire.Proof) { p.DeviceSignature = old.DeviceSignature }, "device key's signature does not verify"},
		"SSH signature of another run":    {func(p *wire.Proof) { p.SSHSignature = old.SSHSignature }, "SSH key's signature does not verify"},
		"no device signature":             {func(p *wire.Proof) { p.DeviceSignature = nil }, "device key's signature does not verify"},
		"no SSH signature":                {func(p *wire.Proof) { p.SSHSignature = nil }, "SSH key's signature is malformed"},
		"signature with trailing bytes":   {func(p *wire.Proof) { p.SSHSignature = append(p.SSHSignature, 0) }, "SSH key's signature"},
	} {
		t.Run(name, func(t *testing.T) {
			m := begin()
			p := m.honestProof()
			c.paste(p)
			m.sendProof(p)
			m.refused()
			require.Contains(t, w.events.reason(t), c.reason)
		})
	}
	// A proof's MAC that was made for another role.
	m := begin()
	body, err := m.honestProof().Marshal()
	require.NoError(t, err)
	m.tr.ProofBody = body
	mac := m.keys.MAC(wire.RoleAck, &m.tr)
	require.NoError(t, wire.WriteMessage(m.conn, wire.TypeProof, append(body, mac[:]...)))
	m.refused()
	require.Contains(t, w.events.reason(t), "MAC does not verify")
	// The evidence of one device with the proof of another.
	m = begin()
	m.signer = deviceID(t, maker, ecKey(t, elliptic.P256()), "r-0")
	m.sendProof(m.honestProof())
	m.refused()
	w.noRefusalYet("r")
}

// Downgrade: nothing that the conductor says can be changed on the way.
func TestAttackChangedConductorMessages(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	token := w.token("r")
	s := w.settings.Load()
	for name, flip := range map[string]struct {
		typ uint8
		at  func(b []byte) int
	}{
		"mode":          {wire.TypeChallenge, func([]byte) int { return 0 }},
		"nonce":         {wire.TypeChallenge, func([]byte) int { return 5 }},
		"challenge MAC": {wire.TypeChallenge, func(b []byte) int { return len(b) - 1 }},
		"node":          {wire.TypeAccept, func([]byte) int { return 1 }},
		"host key":      {wire.TypeAccept, func(b []byte) int { return 40 }},
		"accept MAC":    {wire.TypeAccept, func(b []byte) int { return len(b) - 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			// An attacker inside the TLS connection: the test's relay shares
			// the router's exporter by being the router's transport.
			dir := t.TempDir()
			_, err := w.onboard(dir, token, nil, func(c *sco.OnboardConfig) {
				c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return net.Dial(network, w.evilTwin(t, token, s, flip.typ, flip.at))
				}
			})
			require.ErrorIs(t, err, sco.ErrConductor)
			_, err = sco.LoadEnrollment(dir)
			require.ErrorIs(t, err, sco.ErrNotOnboarded)
		})
	}
}

// evilTwin serves one connection with the conductor's key and secret, rightly
// but for one byte.
func (w *world) evilTwin(t *testing.T, token sco.Token, s *sco.Settings, typ uint8, at func([]byte) int) string {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{wire.ALPN},
		Certificates: []tls.Certificate{{Certificate: [][]byte{s.Certificate.Raw}, PrivateKey: s.Key}}})
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = ln.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		c := conn.(*tls.Conn)
		if c.Handshake() != nil {
			return
		}
		cs := c.ConnectionState()
		exporter, _ := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		m := newTwin(token.Reveal(), exporter)
		_, b, err := wire.ReadMessage(c, wire.MaxHello)
		if err != nil {
			return
		}
		h, body, _ := wire.ParseHello(b)
		m.tr.NonceR, m.tr.HelloBody, m.tr.AssetID = h.Nonce, body, h.AssetID
		send := func(role wire.Role, kind uint8, body []byte) {
			mac := m.keys.MAC(role, &m.tr)
			out := append(bytes.Clone(body), mac[:]...)
			if kind == typ {
				out[at(out)] ^= 1
			}
			_ = wire.WriteMessage(c, kind, out)
		}
		ch := wire.Challenge{Mode: uint8(sco.ModeWeak), Nonce: [32]byte{1}}
		chBody, _ := ch.Marshal()
		m.tr.Mode, m.tr.NonceC, m.tr.ChallengeBody = ch.Mode, ch.Nonce, chBody
		send(wire.RoleChallenge, wire.TypeChallenge, chBody)
		if _, b, err = wire.ReadMessage(c, wire.MaxMessage); err != nil {
			return
		}
		_, m.tr.ProofBody, _ = wire.ParseProof(b)
		acc := wire.Accept{Node: "node0", HostKeys: [][]byte{s.SSHHostKeys[0].Marshal()}, SSHPort: 930}
		m.tr.AcceptBody, _ = acc.Marshal()
		send(wire.RoleAccept, wire.TypeAccept, m.tr.AcceptBody)
		_, _, _ = wire.ReadMessage(c, wire.MaxMessage)
	}()
	return ln.Addr().String()
}

func newTwin(token string, exporter []byte) *mallory {
	p, err := jot.Parse(token)
	if err != nil {
		panic(err)
	}
	m := &mallory{token: p}
	m.tr.Exporter, m.tr.TokenHash = exporter, sha256.Sum256([]byte(token))
	m.keys = wire.NewKeys(string(p.Claims.Secret), m.tr.TokenHash)
	return m
}

// Resumption: there are no tickets, and nothing but a full TLS 1.3 handshake of
// this protocol gets an answer.
func TestAttackResumptionAndOldTLS(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	cfg := clientConfig()
	cfg.ServerName = "conductor"
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for range 3 {
		conn, err := tls.Dial("tcp", w.addr, cfg)
		require.NoError(t, err)
		require.False(t, conn.ConnectionState().DidResume)
		m := newMallory(t, conn, w.token("r").Reveal(), sco.NoDeviceKey())
		m.asset = "other"
		m.sendHello(nil)
		// Whatever the server wants to send beside its answer would be here.
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	old := clientConfig()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, err := tls.Dial("tcp", w.addr, old)
	require.ErrorContains(t, err, "protocol version")
	alpn := clientConfig()
	alpn.NextProtos = []string{"h2"}
	_, err = tls.Dial("tcp", w.addr, alpn)
	require.Error(t, err)
	// A client that leaves ALPN out gets through TLS, and no further.
	alpn.NextProtos = nil
	conn, err := tls.Dial("tcp", w.addr, alpn)
	require.NoError(t, err)
	m := newMallory(t, conn, w.token("r").Reveal(), sco.NoDeviceKey())
	m.refused()
	require.Contains(t, w.events.reason(t), "not a fresh TLS 1.3 connection")
	_ = conn.Close()
}

// The group that was agreed on is recorded, and only good ones are agreed on.
func TestTLSGroups(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	key := newSSHKey(t)
	for _, c := range []struct {
		groups []tls.CurveID
		want   string
	}{
		{[]tls.CurveID{tls.X25519, tls.X25519MLKEM768}, "X25519MLKEM768"},
		{[]tls.CurveID{tls.X25519}, "X25519"},
		{[]tls.CurveID{tls.CurveP384}, "CurveP384"},
		{[]tls.CurveID{tls.CurveP521}, ""},
	} {
		cfg := clientConfig()
		cfg.CurvePreferences = c.groups
		conn, err := tls.Dial("tcp", w.addr, cfg)
		if c.want == "" {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		m := newMallory(t, conn, w.token("r").Reveal(), sco.NoDeviceKey())
		m.key = key
		m.sendHello(nil)
		m.readChallenge()
		m.sendProof(m.honestProof())
		m.accepted()
		require.Equal(t, c.want, w.node("r", "r-0").Status.TLSGroup)
		_ = conn.Close()
	}
}

// Resumption, the router's side: it does not speak to an older TLS either.
func TestRouterRefusesOldTLS(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	s := w.settings.Load()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MaxVersion: tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{s.Certificate.Raw}, PrivateKey: s.Key}}})
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			_ = c.Close()
		}
	}()
	_, err = w.onboard(t.TempDir(), w.token("r"), nil, func(c *sco.OnboardConfig) { c.Addresses = []string{ln.Addr().String()} })
	require.ErrorContains(t, err, "protocol version")
}

// A reflected nonce is refused by the router.
func TestRouterRefusesReflectedNonce(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token, s := w.token("r"), w.settings.Load()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{wire.ALPN},
		Certificates: []tls.Certificate{{Certificate: [][]byte{s.Certificate.Raw}, PrivateKey: s.Key}}})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, b, _ := wire.ReadMessage(c, wire.MaxHello)
		h, _, err := wire.ParseHello(b)
		if err != nil {
			return
		}
		ch := wire.Challenge{Nonce: h.Nonce}
		body, _ := ch.Marshal()
		_ = wire.WriteMessage(c, wire.TypeChallenge, append(body, h.MAC[:]...))
		_, _ = io.Copy(io.Discard, c)
	}()
	_, err = w.onboard(t.TempDir(), token, nil, func(c *sco.OnboardConfig) { c.Addresses = []string{ln.Addr().String()} })
	require.ErrorIs(t, err, sco.ErrConductor)
	require.ErrorContains(t, err, "own nonce")
	_ = ln.Close()
	<-done
}

// A conductor that speaks well but has no secret is found out before the router
// shows anything of its device.
func TestRouterRefusesConductorWithoutSecret(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	token := w.token("r")
	s := w.settings.Load()
	signer := &countingSigner{Signer: sco.SelfSigned()}
	addr := w.evilTwin(t, token, s, wire.TypeChallenge, func(b []byte) int { return len(b) - 1 })
	_, err := w.onboard(t.TempDir(), token, signer, func(c *sco.OnboardConfig) { c.Addresses = []string{addr} })
	require.ErrorIs(t, err, sco.ErrConductor)
	require.Zero(t, signer.proofs)
}

type countingSigner struct {
	sco.Signer
	proofs int
}

func (c *countingSigner) Prove(ctx context.Context, ch sco.Challenge) (sco.Proof, error) {
	c.proofs++
	return c.Signer.Prove(ctx, ch)
}

// Pre-authentication: every refusal is the same bytes, whatever the reason.
func TestRefusalsLookTheSame(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	w.router("off", sco.ModePSKOnly)
	offToken := w.token("off").Reveal()
	w.router("off", sco.ModeDisabled)
	token := w.token("r").Reveal()
	cases := map[string]struct {
		token  string
		change func(*mallory, *wire.Hello)
	}{
		"unknown router":   {token, func(_ *mallory, h *wire.Hello) { h.Router = "nobody" }},
		"unknown asset-id": {token, func(_ *mallory, h *wire.Hello) { h.AssetID = "nobody" }},
		"disabled":         {offToken, func(*mallory, *wire.Hello) {}},
		"wrong secret": {token, func(m *mallory, _ *wire.Hello) {
			m.keys = wire.NewKeys(sco.NewSecret().Reveal(), m.tr.TokenHash)
		}},
		"forged token": {token, func(_ *mallory, h *wire.Hello) {
			h.Token.Signature = bytes.Clone(h.Token.Signature)
			h.Token.Signature[5] ^= 1
		}},
		"malformed router": {token, func(_ *mallory, h *wire.Hello) { h.Router = "\x00" }},
		"malformed key":    {token, func(_ *mallory, h *wire.Hello) { h.SSHKey = []byte("x") }},
		"unknown evidence": {token, func(_ *mallory, h *wire.Hello) { h.Kind = 9 }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			m := w.mallory(c.token, sco.NoDeviceKey())
			m.sendHello(func(h *wire.Hello) { c.change(m, h) })
			m.refused()
			require.GreaterOrEqual(t, time.Since(start), 90*time.Millisecond, "no answer before the common delay")
		})
	}
}
