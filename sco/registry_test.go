package sco_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
)

func TestConfigureKeepsStatesAndSecret(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	before, err := w.reg.Get(ctx, "r")
	require.NoError(t, err)
	require.Len(t, before.Secret.Reveal(), 48, "generated")
	_, err = w.onboard(t.TempDir(), w.token("r"), nil)
	require.NoError(t, err)
	w.router("r", sco.ModeWeak, func(r *sco.Router) {
		r.Nodes[0].Status = sco.Status{}
		r.Nodes = append(r.Nodes, sco.Node{Name: "node1", AssetID: "r-1", Role: "combo", Status: sco.Status{State: sco.StateInitialized}})
	})
	after, err := w.reg.Get(ctx, "r")
	require.NoError(t, err)
	require.True(t, before.Secret.Equal(after.Secret), "a secret does not change by itself")
	require.Equal(t, sco.StateKeysExchanged, after.Node("r-0").Status.State, "states are not the caller's to change")
	require.Equal(t, sco.StateWaiting, after.Node("r-1").Status.State)
	// A node with a new asset-id is a new one.
	w.router("r", sco.ModeWeak, func(r *sco.Router) { r.Nodes[0].AssetID = "r-new" })
	require.Nil(t, w.node("r", "r-new").Status.Binding)
}

func TestConfigureRejectsEverythingAtOnce(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	mine := errors.New("mine")
	err := w.reg.Configure(ctx, "r", func(*sco.Router, bool) error { return mine })
	require.ErrorIs(t, err, mine)
	bad := func(r *sco.Router, _ bool) error {
		r.Mode = 9
		r.InterNodeSecurity = strings.Repeat("x", 100)
		r.Nodes = []sco.Node{
			{Name: "a b", AssetID: "with blank", Role: strings.Repeat("x", 100), EndorsementKey: "??"},
			{Name: "n", AssetID: "same", EndorsementKey: base64.StdEncoding.EncodeToString([]byte("x"))},
			{Name: "n", AssetID: "same", PCRs: map[int]string{24: "00"}},
		}
		return nil
	}
	err = w.reg.Configure(ctx, "r", bad)
	for _, s := range []string{"9 is not a mode", "inter-node-security", "at most 2 nodes", "node name", "asset-id is 1..128", "role is longer",
		"not base64", "not a DER SubjectPublicKeyInfo", "two nodes are named", "two nodes have the asset-id", "register 24"} {
		require.ErrorContains(t, err, s)
	}
	_, err = w.reg.Get(ctx, "r")
	require.ErrorIs(t, err, sco.ErrNotFound)
	for _, name := range []string{"", "a b", "ü", strings.Repeat("x", 64), "a/b"} {
		err := w.reg.Configure(ctx, name, func(*sco.Router, bool) error { return nil })
		require.ErrorContains(t, err, "router name is")
	}
	w.router("a", sco.ModePSKOnly)
	err = w.reg.Configure(ctx, "b", func(r *sco.Router, _ bool) error {
		r.Nodes = []sco.Node{{Name: "n", AssetID: "a-0"}}
		return nil
	})
	require.ErrorIs(t, err, sco.ErrKeyTaken)
}

func TestStateMovesForwardOnly(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	state := func() sco.State { return w.node("r", "r-0").Status.State }
	peer := sco.Peer{Router: "r", AssetID: "r-0"}
	_, err := w.reg.Connected(ctx, peer, "x")
	require.ErrorIs(t, err, sco.ErrUnknownKey, "nobody connects before being onboarded")
	require.ErrorContains(t, w.reg.Initialized(ctx, peer), "has to be connected first")
	dir, token := t.TempDir(), w.token("r")
	e, err := w.onboard(dir, token, nil)
	require.NoError(t, err)
	peer, err = w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.NoError(t, err)
	require.Equal(t, sco.Peer{
		Router: "r", Node: "node0", AssetID: "r-0", State: sco.StateKeysExchanged,
		SSHKey: ssh.FingerprintSHA256(e.Signer().PublicKey()),
	}, peer)
	first, err := w.reg.Connected(ctx, peer, "192.0.2.1:5")
	require.NoError(t, err)
	require.Equal(t, sco.StateConnected, state())
	require.NoError(t, w.reg.Initialized(ctx, peer))
	require.NoError(t, w.reg.Initialized(ctx, peer))
	require.Equal(t, sco.StateInitialized, state())

	// A new connection, to whichever node, is not ended by the old one's end.
	second, err := w.reg.Connected(ctx, peer, "192.0.2.1:6")
	require.NoError(t, err)
	require.NoError(t, w.reg.Disconnected(ctx, peer, first, "timeout"))
	require.True(t, w.node("r", "r-0").Status.Link.Up)
	require.NoError(t, w.reg.Disconnected(ctx, peer, second, "timeout"))
	require.False(t, w.node("r", "r-0").Status.Link.Up)
	require.Equal(t, sco.StateInitialized, state())

	// Neither a refused attempt nor a disconnection takes a state back.
	_, err = w.onboard(t.TempDir(), token, nil)
	w.refused(err, "r", "r-0", "is bound")
	require.Equal(t, sco.StateInitialized, state())
	_, err = w.onboard(dir, token, nil)
	require.NoError(t, err)
	require.Equal(t, sco.StateInitialized, state())

	// Links of a conductor that died are down after its restart.
	_, err = w.reg.Connected(ctx, peer, "192.0.2.1:7")
	require.NoError(t, err)
	require.NoError(t, w.reg.ResetLinks(ctx))
	require.False(t, w.node("r", "r-0").Status.Link.Up)

	for typ, n := range map[string]int{"sco.connected": 3, "sco.disconnected": 3, "sco.onboarded": 2, "sco.attempt_refused": 1, "sco.token_issued": 1} {
		require.Len(t, w.events.of(typ), n, typ)
	}
	// Disabled, or removed: the key opens nothing.
	w.router("r", sco.ModeDisabled)
	_, err = w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.ErrorIs(t, err, sco.ErrUnknownKey)
	require.NoError(t, w.reg.Remove(ctx, "r"))
	_, err = w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.ErrorIs(t, err, sco.ErrUnknownKey)
	require.NoError(t, w.reg.Disconnected(ctx, peer, "x", "gone"))
	require.ErrorIs(t, w.reg.Remove(ctx, "r"), sco.ErrNotFound)
	require.ErrorIs(t, w.reg.Release(ctx, "r", "r-0"), sco.ErrNotFound)
}

// A connection that was authenticated with a key that is pinned no more changes
// nothing, also when another key is pinned by then.
func TestConnectedWithAReplacedKey(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	e, err := w.onboard(t.TempDir(), token, nil)
	require.NoError(t, err)
	old, err := w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.NoError(t, err)
	require.NoError(t, w.reg.Release(ctx, "r", "r-0"))
	e, err = w.onboard(t.TempDir(), token, nil)
	require.NoError(t, err)
	_, err = w.reg.Connected(ctx, old, "192.0.2.1:5")
	require.ErrorIs(t, err, sco.ErrUnknownKey)
	require.ErrorIs(t, w.reg.Initialized(ctx, old), sco.ErrUnknownKey)
	require.Equal(t, sco.StateKeysExchanged, w.node("r", "r-0").Status.State)
	require.Empty(t, w.events.of("sco.connected"))

	present, err := w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.NoError(t, err)
	for _, p := range []sco.Peer{present, {Router: "r", Node: "node0", AssetID: "r-0"}} {
		_, err = w.reg.Connected(ctx, p, "192.0.2.1:6")
		require.NoError(t, err)
		require.NoError(t, w.reg.Initialized(ctx, p))
	}
}

// An old connection whose record comes late, and then its end, do not hide the
// newer one.
func TestConnectedLate(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	e, err := w.onboard(t.TempDir(), w.token("r"), nil)
	require.NoError(t, err)
	p, err := w.reg.Lookup(ctx, e.Signer().PublicKey())
	require.NoError(t, err)
	link := func() sco.Link { return w.node("r", "r-0").Status.Link }
	connected := func(reg *sco.Registry, since time.Time, remote string) string {
		t.Helper()
		p := p
		p.Since = since
		id, err := reg.Connected(ctx, p, remote)
		require.NoError(t, err)
		return id
	}
	now := time.Now()
	second := connected(w.reg, now, "second")
	first := connected(w.reg, now.Add(-time.Second), "first")
	require.Equal(t, second, link().ID)
	require.NoError(t, w.reg.Disconnected(ctx, p, first, "replaced"))
	require.True(t, link().Up)
	require.True(t, now.UTC().Truncate(time.Millisecond).Equal(link().Since))

	// A clock that was set back, the clock of another conductor node, and a
	// link that is down keep nothing from being recorded.
	connected(w.reg, now.Add(-time.Hour), "set back")
	require.Equal(t, "set back", link().Remote)
	other, err := sco.NewRegistry(sco.RegistryConfig{Store: w.store, Node: "conductor-b", Now: w.now})
	require.NoError(t, err)
	connected(w.reg, now, "third")
	id := connected(other, now.Add(-time.Second), "other node")
	require.Equal(t, "other node", link().Remote)
	require.NoError(t, other.Disconnected(ctx, p, id, "gone"))
	connected(w.reg, now.Add(-2*time.Second), "again")
	require.Equal(t, "again", link().Remote)
}

// An asset-id loses its key in three ways, and the audit record has each.
func TestEveryLostBindingIsRecorded(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	released := func() []string {
		var out []string
		for _, e := range w.events.of("sco.binding_released") {
			var d map[string]string
			require.NoError(t, json.Unmarshal(e.Detail, &d))
			require.Equal(t, "r", d["router"])
			require.True(t, strings.HasPrefix(d["key"], "ssh-key SHA256:"), d["key"])
			require.Equal(t, d["key"], "ssh-key "+d["ssh-key"])
			out = append(out, d["asset-id"]+": "+d["reason"])
		}
		return out
	}
	onboard := func() {
		t.Helper()
		_, err := w.onboard(t.TempDir(), w.token("r"), nil)
		require.NoError(t, err)
	}
	w.router("r", sco.ModePSKOnly)
	onboard()
	w.router("r", sco.ModeWeak)
	require.Empty(t, released(), "nothing is lost")
	failed := w.reg.Configure(ctx, "r", func(r *sco.Router, _ bool) error {
		r.Nodes = nil
		r.Mode = 9
		return nil
	})
	require.Error(t, failed)
	require.Empty(t, released(), "nothing was changed")
	w.router("r", sco.ModeWeak, func(r *sco.Router) { r.Nodes[0].AssetID = "new" })
	want := []string{"r-0: it is not in the router's configuration any more"}
	require.Equal(t, want, released())
	w.router("r", sco.ModeWeak, func(r *sco.Router) { r.Nodes[0].AssetID = "unbound" })
	require.Equal(t, want, released(), "there was no key")

	onboard()
	require.NoError(t, w.reg.Release(ctx, "r", "unbound"))
	want = append(want, "unbound: an operator released it")
	require.Equal(t, want, released())

	onboard()
	require.NoError(t, w.reg.Remove(ctx, "r"))
	require.Equal(t, append(want, "unbound: the router was removed"), released())
}

func TestLegacyGate(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	open := func() bool {
		o, err := w.reg.LegacyPorts(ctx)
		require.NoError(t, err)
		return o
	}
	require.False(t, open(), "no routers, no reason to open")
	for i := range 3 {
		w.router(fmt.Sprintf("sco%d", i), sco.ModePSKOnly)
	}
	require.False(t, open())
	w.router("old", sco.ModeDisabled)
	require.True(t, open())
	for asset, want := range map[string]string{"old-0": "", "sco0-0": "its mode is psk-only", "nobody": "no router has the asset-id"} {
		ok, reason, err := w.reg.LegacyAllowed(ctx, asset)
		require.NoError(t, err)
		require.Equal(t, want == "", ok)
		require.Contains(t, reason, want)
	}
	// Live, without a restart.
	w.router("old", sco.ModeStrong)
	require.False(t, open())
	ok, _, err := w.reg.LegacyAllowed(ctx, "old-0")
	require.NoError(t, err)
	require.False(t, ok)
}

func TestListSeesEveryRouter(t *testing.T) {
	w := newWorld(t)
	for i := range 1203 {
		w.router(fmt.Sprintf("r%d", i), sco.ModePSKOnly)
	}
	seen := map[string]bool{}
	require.NoError(t, w.reg.List(context.Background(), func(r *sco.Router) bool { seen[r.Name] = true; return true }))
	require.Len(t, seen, 1203)
	n := 0
	require.NoError(t, w.reg.List(context.Background(), func(*sco.Router) bool { n++; return n < 7 }))
	require.Equal(t, 7, n)
}

func TestNames(t *testing.T) {
	for _, m := range []sco.Mode{sco.ModeDisabled, sco.ModePSKOnly, sco.ModeWeak, sco.ModeStrong} {
		b, err := m.MarshalText()
		require.NoError(t, err)
		got, err := sco.ParseMode(string(b))
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	_, err := sco.ParseMode("Strong")
	require.ErrorContains(t, err, "disabled, psk-only, weak, strong")
	for s := sco.StateWaiting; s <= sco.StateInitialized; s++ {
		var got sco.State
		b, err := s.MarshalText()
		require.NoError(t, err)
		require.NoError(t, got.UnmarshalText(b))
		require.Equal(t, s, got)
	}
	for k := sco.EvidenceNone; k <= sco.EvidenceTPM; k++ {
		var got sco.EvidenceKind
		b, err := k.MarshalText()
		require.NoError(t, err)
		require.NoError(t, got.UnmarshalText(b))
		require.Equal(t, k, got)
	}
	_, err = sco.Mode(9).MarshalText()
	require.Error(t, err)
	require.Equal(t, "State(9) EvidenceKind(9) Mode(9)", fmt.Sprint(sco.State(9), " ", sco.EvidenceKind(9), " ", sco.Mode(9)))
}
