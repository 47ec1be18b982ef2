package sco_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/jot"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// mallory speaks the protocol by hand, from its description alone, and can do
// each step wrong.
type mallory struct {
	t      testing.TB
	conn   *tls.Conn
	token  *jot.Token
	asset  string
	key    ssh.Signer
	signer sco.Signer
	tr     wire.Transcript
	keys   *wire.Keys

	hello     *wire.Hello
	challenge *wire.Challenge
}

func newSSHKey(tb testing.TB) ssh.Signer {
	tb.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(tb, err)
	s, err := ssh.NewSignerFromKey(priv)
	require.NoError(tb, err)
	return s
}

func clientConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{wire.ALPN}}
}

func (w *world) dial() *tls.Conn {
	w.tb.Helper()
	raw, err := net.Dial("tcp", w.addr)
	require.NoError(w.tb, err)
	_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
	conn := tls.Client(raw, clientConfig())
	require.NoError(w.tb, conn.Handshake())
	w.tb.Cleanup(func() { _ = raw.Close() })
	return conn
}

// mallory connects with a token.
func (w *world) mallory(token string, signer sco.Signer) *mallory {
	w.tb.Helper()
	return newMallory(w.tb, w.dial(), token, signer)
}

func newMallory(tb testing.TB, conn *tls.Conn, token string, signer sco.Signer) *mallory {
	tb.Helper()
	parsed, err := jot.Parse(token)
	require.NoError(tb, err)
	cs := conn.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	require.NoError(tb, err)
	m := &mallory{t: tb, conn: conn, token: parsed, asset: parsed.Claims.AssetIDs[0], key: newSSHKey(tb), signer: signer}
	m.tr = wire.Transcript{Exporter: exporter, TokenHash: sha256.Sum256([]byte(token)), AssetID: m.asset}
	m.keys = wire.NewKeys(string(parsed.Claims.Secret), m.tr.TokenHash)
	return m
}

// sendHello sends an honest first message after change has had its way.
func (m *mallory) sendHello(change func(*wire.Hello)) {
	m.t.Helper()
	ev, err := m.signer.Evidence(context.Background())
	require.NoError(m.t, err)
	h := &wire.Hello{
		Version: wire.Version, Router: m.token.Claims.Router, AssetID: m.asset,
		Token:  wire.Token{Header: m.token.Header, Before: m.token.Before, After: m.token.After, Signature: m.token.Signature},
		SSHKey: m.key.PublicKey().Marshal(), Kind: uint8(ev.Kind), Certificates: ev.Certificates,
		EK: ev.EndorsementKey, AK: ev.AttestationKey, CreationData: ev.CreationData,
		CreationAttest: ev.CreationAttestation, CreationSigning: ev.CreationSignature,
	}
	_, _ = rand.Read(h.Nonce[:])
	if change != nil {
		change(h)
	}
	m.sendBody(h)
}

func (m *mallory) sendBody(h *wire.Hello) {
	m.t.Helper()
	body, err := h.Marshal()
	require.NoError(m.t, err)
	m.hello, m.tr.NonceR, m.tr.HelloBody, m.tr.AssetID = h, h.Nonce, body, h.AssetID
	mac := m.keys.MAC(wire.RoleHello, &m.tr)
	require.NoError(m.t, wire.WriteMessage(m.conn, wire.TypeHello, append(body, mac[:]...)))
}

func (m *mallory) read() (uint8, []byte) {
	m.t.Helper()
	typ, b, err := wire.ReadMessage(m.conn, wire.MaxMessage)
	require.NoError(m.t, err)
	return typ, b
}

func (m *mallory) readChallenge() {
	m.t.Helper()
	typ, b := m.read()
	require.EqualValues(m.t, wire.TypeChallenge, typ)
	c, body, err := wire.ParseChallenge(b)
	require.NoError(m.t, err)
	m.challenge, m.tr.Mode, m.tr.NonceC, m.tr.ChallengeBody = c, c.Mode, c.Nonce, body
	require.True(m.t, m.keys.Verify(wire.RoleChallenge, &m.tr, c.MAC))
}

// honestProof is the right answer.
func (m *mallory) honestProof() *wire.Proof {
	m.t.Helper()
	c := sco.Challenge{Digest: m.tr.Digest(wire.RoleDevice), Credential: m.challenge.Credential, Secret: m.challenge.Secret}
	for _, p := range m.challenge.PCRs {
		c.PCRs = append(c.PCRs, int(p))
	}
	p, err := m.signer.Prove(context.Background(), c)
	require.NoError(m.t, err)
	if m.hello.Kind == uint8(sco.EvidenceTPM) {
		m.keys.Activated(p.ActivatedSecret)
	}
	return &wire.Proof{SSHSignature: m.signSSH(m.key), DeviceSignature: p.Signature,
		Quote: p.Quote, QuoteSignature: p.QuoteSignature, PCRValues: p.PCRValues}
}

// signSSH writes the SSHSIG form out, as PROTOCOL.md gives it.
func (m *mallory) signSSH(key ssh.Signer) []byte {
	m.t.Helper()
	digest := m.tr.Digest(wire.RoleSSHKey)
	h := sha512.Sum512(digest[:])
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct{ A, B, C, D string }{"sco-router-key@mooring", "", "sha512", string(h[:])})...)
	sig, err := key.Sign(rand.Reader, blob)
	require.NoError(m.t, err)
	return ssh.Marshal(sig)
}

func (m *mallory) sendProof(p *wire.Proof) {
	m.t.Helper()
	body, err := p.Marshal()
	require.NoError(m.t, err)
	m.tr.ProofBody = body
	mac := m.keys.MAC(wire.RoleProof, &m.tr)
	require.NoError(m.t, wire.WriteMessage(m.conn, wire.TypeProof, append(body, mac[:]...)))
}

// accepted demands that the conductor said yes.
func (m *mallory) accepted() {
	m.t.Helper()
	typ, _ := m.read()
	require.EqualValues(m.t, wire.TypeAccept, typ)
}

// refused demands the one answer that everybody who is refused gets.
func (m *mallory) refused() {
	m.t.Helper()
	typ, b := m.read()
	require.EqualValues(m.t, wire.TypeRefuse, typ)
	require.Empty(m.t, b)
	_, _, err := wire.ReadMessage(m.conn, 1)
	require.Error(m.t, err)
}

func joined(t *testing.T, x wire.Token, secret string) string {
	t.Helper()
	return jot.Join(x.Header, x.Before, x.After, x.Signature, secret)
}

func sha(s string) [32]byte { return sha256.Sum256([]byte(s)) }
