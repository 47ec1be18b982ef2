package sco_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/scotest"
)

func FuzzDecodeRouter(f *testing.F) {
	for _, r := range []*sco.Router{scotest.Router("r", "a", "b"), scotest.Router("q")} {
		b, err := sco.EncodeRouter(r)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := sco.DecodeRouter(b)
		if err != nil {
			return
		}
		_ = r.Keys()
		enc, err := sco.EncodeRouter(r)
		require.NoError(t, err)
		again, err := sco.DecodeRouter(enc)
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func FuzzParseOnboardingConfig(f *testing.F) {
	w := newWorld(f)
	w.router("r", sco.ModePSKOnly)
	b, err := (&sco.OnboardingConfig{Token: w.token("r"), Addresses: []string{"a:1"}, AssetID: "r-0"}).Reveal()
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"token":"a.b.c"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := sco.ParseOnboardingConfig(b)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		_, err = c.Reveal()
		require.NoError(t, err)
	})
}

func FuzzDecodeEnrollment(f *testing.F) {
	w := newWorld(f)
	w.router("r", sco.ModePSKOnly)
	dir := f.TempDir()
	_, err := w.onboard(dir, w.token("r"), nil)
	require.NoError(f, err)
	b, err := os.ReadFile(filepath.Join(dir, "enrollment.json"))
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := sco.DecodeEnrollment(b)
		if err != nil {
			return
		}
		enc, err := e.Encode()
		require.NoError(t, err)
		_, err = sco.DecodeEnrollment(enc)
		require.NoError(t, err)
	})
}

func FuzzSSH(f *testing.F) {
	key := newSSHKey(f)
	sig, err := key.Sign(nil, []byte("x"))
	require.NoError(f, err)
	f.Add(key.PublicKey().Marshal(), ssh.Marshal(sig))
	f.Fuzz(func(_ *testing.T, pub, sig []byte) {
		if k, err := sco.ParseSSHKey(pub); err == nil {
			_ = sco.VerifySSH(k, [32]byte{}, sig)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"1d", "5mo", "", "a:1", "[::1]:933", "3f2a:1", "127.1:1", "[fe80::1%e]:1", "psk-only", "MFkw"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = sco.ParseLifetime(s)
		_, _ = sco.ParseEndorsementKey(s)
		_, _ = sco.ParseSecret(s)
		_, _ = sco.ParseMode(s)
		if sco.CheckAddress(s) == nil {
			require.NoError(t, tunnelTakes(t, s))
		}
	})
}

func FuzzParseChain(f *testing.F) {
	ev, err := sco.SelfSigned().Evidence(context.Background())
	require.NoError(f, err)
	f.Add(ev.Certificates[0])
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = sco.ParseChain([][]byte{b})
	})
}
