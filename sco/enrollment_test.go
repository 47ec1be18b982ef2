package sco_test

import (
	"crypto/elliptic"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
)

// A router may bring an SSH key of its own.
func TestOnboardWithExistingSSHKeys(t *testing.T) {
	w := newWorld(t)
	for name, key := range map[string]any{
		"rsa": sharedRSA(t), "p256": ecKey(t, elliptic.P256()), "p384": ecKey(t, elliptic.P384()), "p521": ecKey(t, elliptic.P521()),
	} {
		w.router(name, sco.ModePSKOnly)
		dir := t.TempDir()
		block, err := ssh.MarshalPrivateKey(key, "")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ssh_key"), pem.EncodeToMemory(block), 0o600))
		e, err := w.onboard(dir, w.token(name), nil)
		if name == "p521" {
			require.ErrorIs(t, err, sco.ErrRefused)
			require.Contains(t, w.events.reason(t), "is not accepted")
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, string(ssh.MarshalAuthorizedKey(e.Signer().PublicKey())), w.node(name, name+"-0").Status.SSHKey+"\n")
		_, err = w.onboard(dir, w.token(name), nil)
		require.NoError(t, err)
	}
}

func TestLoadEnrollmentRejects(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	dir := t.TempDir()
	_, err := w.onboard(dir, w.token("r"), nil)
	require.NoError(t, err)
	path := filepath.Join(dir, "enrollment.json")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(good, &m))
	for field, bad := range map[string]any{
		"version": 2, "router": "a b", "node": "", "asset-id": "a b", "ssh-addresses": []string{}, "host-keys": []string{},
		"conductor-ca-cert": "AAAA", "other": 1,
	} {
		c := map[string]any{}
		for k, v := range m {
			c[k] = v
		}
		c[field] = bad
		b, err := json.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err = sco.LoadEnrollment(dir)
		require.Error(t, err, field)
		require.NotErrorIs(t, err, sco.ErrNotOnboarded)
		require.ErrorContains(t, err, "enrollment.json")
	}
	for _, b := range []string{"", "{", string(good) + "{}", strings.Repeat(" ", 2<<20)} {
		require.NoError(t, os.WriteFile(path, []byte(b), 0o600))
		_, err = sco.LoadEnrollment(dir)
		require.Error(t, err)
	}
	// A plain run repairs it.
	_, err = w.onboard(dir, w.token("r"), nil)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "ssh_key"), []byte("x"), 0o600))
	_, err = sco.LoadEnrollment(dir)
	require.ErrorContains(t, err, "ssh_key")
	_, err = w.onboard(dir, w.token("r"), nil)
	require.ErrorContains(t, err, "ssh_key", "a key is never replaced silently")
	b, err := os.ReadFile(filepath.Join(dir, "ssh_key"))
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}
