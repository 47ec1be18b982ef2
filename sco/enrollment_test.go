package sco_test

import (
	"crypto/elliptic"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
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
	for _, b := range []string{"", "{", string(good) + "{}", string(good) + "}", string(good) + "]", strings.Repeat(" ", 2<<20)} {
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

// Two first runs at the same time: whichever key is pinned, it is the one that
// is kept.
func TestSSHKeyIsMadeOnceByConcurrentRuns(t *testing.T) {
	for range 10 {
		const runs = 8
		dir := t.TempDir()
		// All have seen that there is no key before any of them stores one.
		var ready sync.WaitGroup
		ready.Add(runs)
		keys := make([]ssh.Signer, runs)
		errs := make([]error, runs)
		var wg sync.WaitGroup
		for i := range runs {
			w := durable.Writer{Before: func(s durable.Step, _ string) error {
				if s == durable.StepCreate {
					ready.Done()
					ready.Wait()
				}
				return nil
			}}
			wg.Go(func() { keys[i], errs[i] = sco.SSHKeyIn(w, dir) })
		}
		wg.Wait()
		kept, err := sco.SSHKeyIn(durable.Writer{}, dir)
		require.NoError(t, err)
		for i := range runs {
			require.NoError(t, errs[i])
			require.Equal(t, kept.PublicKey(), keys[i].PublicKey())
		}
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	}
}

// FAT has no hard links.
func TestSSHKeyWithoutHardLinks(t *testing.T) {
	dir, first := t.TempDir(), true
	w := durable.Writer{Before: func(s durable.Step, _ string) error {
		if s == durable.StepRename && first {
			first = false
			return &os.LinkError{Op: "link", Err: syscall.EPERM}
		}
		return nil
	}}
	key, err := sco.SSHKeyIn(w, dir)
	require.NoError(t, err)
	again, err := sco.SSHKeyIn(w, dir)
	require.NoError(t, err)
	require.Equal(t, key.PublicKey(), again.PublicKey())
	require.False(t, first)
}

// Onboarding runs while another program of the router writes a file of its own
// into the directory.
func TestOnboardLeavesOtherWritersAlone(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	dir := t.TempDir()
	status, err := durable.Writer{}.Create(filepath.Join(dir, "status.json"), 0o600)
	require.NoError(t, err)
	_, err = w.onboard(dir, w.token("r"), nil)
	require.NoError(t, err)
	require.NoError(t, status.Commit())
}
