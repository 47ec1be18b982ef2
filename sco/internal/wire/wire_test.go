package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func hello() *Hello {
	return &Hello{
		Version: Version, Nonce: [32]byte{1}, Router: "r", AssetID: "a",
		Token:  Token{Header: []byte("h"), Before: []byte("before"), After: []byte("after"), Signature: []byte("sig")},
		SSHKey: []byte("key"), Kind: 3, Certificates: [][]byte{{1, 2}, {3}},
		EK: []byte("ek"), AK: []byte("ak"), CreationData: []byte("cd"), CreationAttest: []byte("ca"), CreationSigning: []byte("cs"),
		MAC: [32]byte{9},
	}
}

func challenge() *Challenge {
	return &Challenge{Mode: 3, Nonce: [32]byte{2}, Credential: []byte("cred"), Secret: []byte("s"), PCRs: []byte{0, 7, 23}, MAC: [32]byte{8}}
}

func proof() *Proof {
	return &Proof{SSHSignature: []byte("ssh"), DeviceSignature: []byte("dev"), Quote: []byte("q"), QuoteSignature: []byte("qs"),
		PCRValues: [][]byte{bytes.Repeat([]byte{1}, 32)}, MAC: [32]byte{7}}
}

func accept() *Accept {
	return &Accept{Node: "node0", HostKeys: [][]byte{[]byte("k1"), []byte("k2")}, SSHPort: 930, Addresses: []string{"192.0.2.1:930"}, MAC: [32]byte{6}}
}

type marshaler interface{ Marshal() ([]byte, error) }

// messages has an example of each message, with its MAC, and its parser.
func messages(t testing.TB) map[string]struct {
	b     []byte
	m     marshaler
	parse func([]byte) (marshaler, []byte, error)
} {
	full := func(m marshaler, mac [32]byte) []byte {
		b, err := m.Marshal()
		require.NoError(t, err)
		return append(b, mac[:]...)
	}
	type entry = struct {
		b     []byte
		m     marshaler
		parse func([]byte) (marshaler, []byte, error)
	}
	h, c, p, a := hello(), challenge(), proof(), accept()
	return map[string]entry{
		"hello":     {full(h, h.MAC), h, func(b []byte) (marshaler, []byte, error) { m, body, err := ParseHello(b); return m, body, err }},
		"challenge": {full(c, c.MAC), c, func(b []byte) (marshaler, []byte, error) { m, body, err := ParseChallenge(b); return m, body, err }},
		"proof":     {full(p, p.MAC), p, func(b []byte) (marshaler, []byte, error) { m, body, err := ParseProof(b); return m, body, err }},
		"accept":    {full(a, a.MAC), a, func(b []byte) (marshaler, []byte, error) { m, body, err := ParseAccept(b); return m, body, err }},
	}
}

func TestMessagesSurvive(t *testing.T) {
	for name, c := range messages(t) {
		got, body, err := c.parse(c.b)
		require.NoError(t, err, name)
		require.Equal(t, c.m, got, name)
		require.Equal(t, c.b[:len(c.b)-32], body, name)
		for n := range len(c.b) {
			_, _, err := c.parse(c.b[:n])
			require.ErrorIs(t, err, ErrFormat, "%s cut to %d bytes", name, n)
		}
		_, _, err = c.parse(append(bytes.Clone(c.b), 0))
		require.ErrorIs(t, err, ErrFormat, name)
	}
	_, _, err := ParseAck(make([]byte, 31))
	require.ErrorIs(t, err, ErrFormat)
	_, _, err = ParseAck(make([]byte, 32))
	require.NoError(t, err)
}

func TestBounds(t *testing.T) {
	for name, change := range map[string]func(*Hello){
		"version":      func(h *Hello) { h.Version = 2 },
		"router":       func(h *Hello) { h.Router = string(make([]byte, 64)) },
		"asset-id":     func(h *Hello) { h.AssetID = string(make([]byte, 129)) },
		"header":       func(h *Hello) { h.Token.Header = make([]byte, maxBlob+1) },
		"before":       func(h *Hello) { h.Token.Before = make([]byte, MaxToken+1) },
		"SSH key":      func(h *Hello) { h.SSHKey = make([]byte, maxSSHKey+1) },
		"certificates": func(h *Hello) { h.Certificates = make([][]byte, MaxCertificates+1) },
		"certificate":  func(h *Hello) { h.Certificates = [][]byte{make([]byte, MaxCertificate+1)} },
		"AK":           func(h *Hello) { h.AK = make([]byte, maxBlob+1) },
	} {
		h := hello()
		change(h)
		b, err := h.Marshal()
		require.NoError(t, err)
		_, _, err = ParseHello(append(b, h.MAC[:]...))
		require.ErrorIs(t, err, ErrFormat, name)
	}
	for _, pcrs := range [][]byte{{24}, {1, 1}, {2, 1}, make([]byte, 25)} {
		c := challenge()
		c.PCRs = pcrs
		b, err := c.Marshal()
		require.NoError(t, err)
		_, _, err = ParseChallenge(append(b, c.MAC[:]...))
		require.ErrorIs(t, err, ErrFormat)
	}
	h := hello()
	h.Token.Before = make([]byte, 1<<16)
	_, err := h.Marshal()
	require.ErrorIs(t, err, ErrFormat)
}

func TestFraming(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, WriteMessage(&b, 7, []byte("body")))
	wire := bytes.Clone(b.Bytes())
	typ, body, err := ReadMessage(&b, 4)
	require.NoError(t, err)
	require.EqualValues(t, 7, typ)
	require.Equal(t, "body", string(body))
	_, _, err = ReadMessage(bytes.NewReader(wire), 3)
	require.ErrorIs(t, err, ErrFormat)
	for n := 1; n < len(wire); n++ {
		_, _, err = ReadMessage(bytes.NewReader(wire[:n]), 4)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	_, _, err = ReadMessage(bytes.NewReader(nil), 4)
	require.True(t, errors.Is(err, io.EOF))
	require.ErrorIs(t, WriteMessage(&b, 1, make([]byte, 1<<24)), ErrFormat)
}

// TestTranscriptHasNoTwoMeanings changes each field, and moves bytes between
// fields.
func TestTranscriptHasNoTwoMeanings(t *testing.T) {
	base := func() *Transcript {
		return &Transcript{Exporter: []byte("eeee"), AssetID: "asset", Mode: 1, HelloBody: []byte("hello"),
			ChallengeBody: []byte("challenge"), ProofBody: []byte("proof"), AcceptBody: []byte("accept")}
	}
	seen := map[[32]byte]string{}
	add := func(name string, d [32]byte) {
		require.Empty(t, seen[d], "%s has the digest of %s", name, seen[d])
		seen[d] = name
	}
	for r := RoleHello; r <= RoleSSHKey; r++ {
		add("role", base().Digest(r))
	}
	for name, f := range map[string]func(*Transcript){
		"exporter":  func(x *Transcript) { x.Exporter = []byte("eeef") },
		"token":     func(x *Transcript) { x.TokenHash[3] = 1 },
		"asset":     func(x *Transcript) { x.AssetID = "assez" },
		"mode":      func(x *Transcript) { x.Mode = 2 },
		"nonce r":   func(x *Transcript) { x.NonceR[0] = 1 },
		"nonce c":   func(x *Transcript) { x.NonceC[0] = 1 },
		"hello":     func(x *Transcript) { x.HelloBody = []byte("hellp") },
		"challenge": func(x *Transcript) { x.ChallengeBody = nil },
		"proof":     func(x *Transcript) { x.ProofBody = nil },
		"accept":    func(x *Transcript) { x.AcceptBody = nil },
		"move 1":    func(x *Transcript) { x.HelloBody, x.ChallengeBody = []byte("helloc"), []byte("hallenge") },
		"move 2":    func(x *Transcript) { x.ProofBody, x.AcceptBody = nil, []byte("proofaccept") },
		"move 3":    func(x *Transcript) { x.Exporter, x.AssetID = []byte("eeeea"), "sset" },
	} {
		x := base()
		f(x)
		add(name, x.Digest(RoleProof))
	}
}

// TestVector pins the hashes, for other implementations.
func TestVector(t *testing.T) {
	tr := &Transcript{Exporter: bytes.Repeat([]byte{0xee}, 32), TokenHash: [32]byte{1}, AssetID: "asset-1", Mode: 3,
		NonceR: [32]byte{2}, NonceC: [32]byte{3}, HelloBody: []byte("hello"), ChallengeBody: []byte("challenge")}
	k := NewKeys("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL", tr.TokenHash)
	d := tr.Digest(RoleDevice)
	m := k.MAC(RoleChallenge, tr)
	require.Equal(t, vectorDigest, hexOf(d[:]))
	require.Equal(t, vectorMAC, hexOf(m[:]))
	require.True(t, k.Verify(RoleChallenge, tr, m))
	require.False(t, k.Verify(RoleProof, tr, m))
	k.Activated([]byte("0123456789abcdef0123456789abcdef"))
	m = k.MAC(RoleProof, tr)
	require.Equal(t, vectorActivated, hexOf(m[:]))
}

func FuzzMessages(f *testing.F) {
	all := messages(f)
	for _, c := range all {
		f.Add(c.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, c := range all {
			m, body, err := c.parse(b)
			if err != nil {
				continue
			}
			again, err := m.Marshal()
			require.NoError(t, err, name)
			require.Equal(t, body, again, name)
		}
		_, _, _ = ParseAck(b)
		if typ, body, err := ReadMessage(bytes.NewReader(b), 1<<16); err == nil {
			var out bytes.Buffer
			require.NoError(t, WriteMessage(&out, typ, body))
			require.Equal(t, b[:out.Len()], out.Bytes())
		}
	})
}
