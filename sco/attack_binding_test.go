package sco_test

import (
	"context"
	"crypto/elliptic"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// Unknown key share: nobody registers somebody else's SSH key as their own.
func TestAttackUnknownKeyShare(t *testing.T) {
	w := newWorld(t)
	w.router("victim", sco.ModePSKOnly)
	w.router("evil", sco.ModePSKOnly)
	victim, err := w.onboard(t.TempDir(), w.token("victim"), nil)
	require.NoError(t, err)

	m := w.mallory(w.token("evil").Reveal(), sco.NoDeviceKey())
	m.sendHello(func(h *wire.Hello) { h.SSHKey = victim.Signer().PublicKey().Marshal() })
	m.readChallenge()
	m.sendProof(m.honestProof())
	m.refused()
	require.Contains(t, w.events.reason(t), "SSH key's signature does not verify")

	// Nor is a key shared by two that both have it.
	m = w.mallory(w.token("evil").Reveal(), sco.NoDeviceKey())
	m.key = victim.Signer()
	m.sendHello(nil)
	m.readChallenge()
	m.sendProof(m.honestProof())
	m.refused()
	require.Contains(t, w.events.reason(t), "already pinned for another router")
	p, err := w.reg.Lookup(context.Background(), victim.Signer().PublicKey())
	require.NoError(t, err)
	require.Equal(t, "victim", p.Router)
}

// Unknown key share: a token is good for its own router and asset-ids only.
func TestAttackTokenForAnotherRouter(t *testing.T) {
	w := newWorld(t)
	secret := sco.NewSecret()
	same := func(r *sco.Router) { r.Secret = secret }
	w.router("a", sco.ModePSKOnly, same)
	w.router("b", sco.ModePSKOnly, same)
	token := w.token("a").Reveal()
	m := w.mallory(token, sco.NoDeviceKey())
	m.sendHello(func(h *wire.Hello) { h.Router, h.AssetID = "b", "b-0" })
	m.refused()
	require.Contains(t, w.events.reason(t), "the token is for another router")

	// A node that was added after the token was issued.
	w.router("a", sco.ModePSKOnly, func(r *sco.Router) {
		r.Nodes = append(r.Nodes, sco.Node{Name: "node1", AssetID: "a-1", Role: "combo"})
	})
	m = w.mallory(token, sco.NoDeviceKey())
	m.sendHello(func(h *wire.Hello) { h.AssetID = "a-1" })
	m.refused()
	require.Contains(t, w.events.reason(t), "not for this asset-id")
}

// Token theft, identity takeover: whoever comes second is refused, until an
// operator releases the asset-id.
func TestAttackTokenTheftAfterOnboarding(t *testing.T) {
	w := newWorld(t)
	for _, mode := range []sco.Mode{sco.ModePSKOnly, sco.ModeWeak} {
		name := mode.String()
		w.router(name, mode)
		token := w.token(name)
		dir := t.TempDir()
		first, err := w.onboard(dir, token, nil)
		require.NoError(t, err)
		_, err = w.onboard(t.TempDir(), token, nil)
		w.refused(err, name, name+"-0", "is bound to the ssh-key")
		// The first one is not harmed.
		again, err := w.onboard(dir, token, nil)
		require.NoError(t, err)
		require.Equal(t, first.Signer().PublicKey().Marshal(), again.Signer().PublicKey().Marshal())
		require.Empty(t, w.node(name, name+"-0").Status.LastError)

		require.NoError(t, w.reg.Release(context.Background(), name, name+"-0"))
		require.Equal(t, sco.StateWaiting, w.node(name, name+"-0").Status.State)
		_, err = w.reg.Lookup(context.Background(), first.Signer().PublicKey())
		require.ErrorIs(t, err, sco.ErrUnknownKey)
		_, err = w.onboard(t.TempDir(), token, nil)
		require.NoError(t, err)
		_, err = w.onboard(dir, token, nil)
		w.refused(err, name, name+"-0", "is bound to the ssh-key")
	}
	require.Len(t, w.events.of("sco.binding_released"), 2)
}

// Identity takeover: weaker evidence never replaces a binding to a stronger key,
// and stronger evidence only for the very same device.
func TestAttackBindingDowngrade(t *testing.T) {
	maker := newAuthority(t, "maker")
	w := newWorld(t)
	w.router("r", sco.ModeWeak)
	key := ecKey(t, elliptic.P256())
	id := deviceID(t, maker, key, "r-0")
	dir, token := t.TempDir(), w.token("r")
	_, err := w.onboard(dir, token, nil)
	require.NoError(t, err)
	require.Equal(t, "ssh-key", w.node("r", "r-0").Status.Binding.Kind)

	_, err = w.onboard(t.TempDir(), token, id)
	w.refused(err, "r", "r-0", "is bound to the ssh-key")
	_, err = w.onboard(dir, token, id)
	require.NoError(t, err)
	require.Equal(t, "device-id", w.node("r", "r-0").Status.Binding.Kind)

	_, err = w.onboard(dir, token, sco.SelfSigned())
	w.refused(err, "r", "r-0", "is bound to the device-id")
	_, err = w.onboard(dir, token, deviceID(t, maker, ecKey(t, elliptic.P256()), "r-0"))
	w.refused(err, "r", "r-0", "is bound to the device-id")

	// The bound device may come with a new SSH key: it was installed anew,
	// and starts anew.
	ctx := context.Background()
	p, err := w.reg.Lookup(ctx, mustLoad(t, dir).Signer().PublicKey())
	require.NoError(t, err)
	_, err = w.reg.Connected(ctx, p, "x")
	require.NoError(t, err)
	require.NoError(t, w.reg.Initialized(ctx, p))
	_, err = w.onboard(dir, token, id)
	require.NoError(t, err)
	require.Equal(t, sco.StateInitialized, w.node("r", "r-0").Status.State, "the same router again")
	e, err := w.onboard(t.TempDir(), token, id)
	require.NoError(t, err)
	require.Equal(t, sco.StateKeysExchanged, w.node("r", "r-0").Status.State)
	_, err = w.reg.Lookup(ctx, p2key(e))
	require.NoError(t, err)
	_, err = w.reg.Lookup(ctx, mustLoad(t, dir).Signer().PublicKey())
	require.ErrorIs(t, err, sco.ErrUnknownKey)
}

func p2key(e *sco.Enrollment) ssh.PublicKey { return e.Signer().PublicKey() }

func mustLoad(t *testing.T, dir string) *sco.Enrollment {
	t.Helper()
	e, err := sco.LoadEnrollment(dir)
	require.NoError(t, err)
	return e
}

// Token race: of many that use one token at once, through two conductors on one
// store, exactly one gets the asset-id.
func TestAttackTokenRace(t *testing.T) {
	a := newWorld(t)
	b := newWorld(t, withStore(a.store))
	b.settings.Store(a.settings.Load())
	a.router("r", sco.ModePSKOnly)
	token := a.token("r")
	const devices = 12
	errs := make([]error, devices)
	var wg sync.WaitGroup
	root := t.TempDir()
	for i := range devices {
		w := []*world{a, b}[i%2]
		wg.Go(func() {
			_, errs[i] = w.onboard(filepath.Join(root, string(rune('a'+i))), token, nil)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			require.ErrorIs(t, err, sco.ErrRefused)
		}
	}
	require.Equal(t, 1, won)
}

// What the operator changes while an attempt runs, and the end of the token, count
// at its end as well.
func TestAttackChangesDuringTheAttempt(t *testing.T) {
	for want, change := range map[string]func(*world){
		"configuration was changed": func(w *world) {
			w.router("r", sco.ModePSKOnly, func(r *sco.Router) {
				r.Nodes[0].PCRs = map[int]string{7: strings.Repeat("00", 32)}
			})
		},
		"has expired": func(w *world) { w.offset.Store(int64(25 * time.Hour)) },
	} {
		w := newWorld(t)
		w.router("r", sco.ModePSKOnly)
		m := w.mallory(w.token("r").Reveal(), sco.NoDeviceKey())
		m.sendHello(nil)
		m.readChallenge()
		change(w)
		m.sendProof(m.honestProof())
		m.refused()
		require.Contains(t, w.events.reason(t), want)
		require.Nil(t, w.node("r", "r-0").Status.Binding)
	}
}

// Fields that a kind of evidence does not use carry nothing.
func TestAttackUnusedFields(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r").Reveal()
	for _, change := range []func(*wire.Hello){
		func(h *wire.Hello) { h.Certificates = [][]byte{{1}} },
		func(h *wire.Hello) { h.EK = []byte{1} },
		func(h *wire.Hello) { h.AK = []byte{1} },
		func(h *wire.Hello) { h.CreationData = []byte{1} },
		func(h *wire.Hello) { h.CreationAttest = []byte{1} },
		func(h *wire.Hello) { h.CreationSigning = []byte{1} },
	} {
		m := w.mallory(token, sco.NoDeviceKey())
		m.sendHello(change)
		m.refused()
		require.Contains(t, w.events.reason(t), "fields that evidence none does not use")
	}
	m := w.mallory(token, sco.SelfSigned())
	m.sendHello(func(h *wire.Hello) { h.AK = []byte{1} })
	m.refused()
	require.Contains(t, w.events.reason(t), "fields that evidence self-signed does not use")
}
