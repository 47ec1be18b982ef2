package tpmkey_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"crypto"
	"crypto/rsa"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmdev"
	"github.com/mooringlib/mooring/internal/tpmkey"
)

// provider is a software TPM that both we and OpenSSL's TPM provider reach. The
// provider's transport insists on the control socket, which the simulators of
// package tpmsim do not have.
type provider struct {
	dir, socket, openssl string
}

func startProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{openssl: peer.Need(t, "openssl")}
	program := peer.Need(t, "swtpm")
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p.dir, p.socket = dir, filepath.Join(dir, "s")
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+p.socket, "--ctrl", "type=unixio,path="+p.socket+".ctrl",
		"--flags", "startup-clear")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", p.socket+".ctrl")
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 5*time.Millisecond)
	if out, err := p.run(t, "list", "-providers"); err != nil {
		t.Fatalf("OpenSSL's TPM provider does not load (make deps installs it): %v\n%s", err, out)
	}
	return p
}

// run runs openssl with the provider. It ends before anybody else may use the
// TPM, because swtpm serves one connection at a time.
func (p *provider) run(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{args[0], "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"}, args[1:]...)
	if args[0] == "list" {
		args = []string{"list", "-provider", "tpm2", "-providers"}
	}
	cmd := exec.CommandContext(ctx, p.openssl, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "TPM2OPENSSL_TCTI=swtpm:path="+p.socket, "TSS2_LOG=all+none")
	return cmd.CombinedOutput()
}

// ours runs f with our own connection to the TPM.
func (p *provider) ours(t *testing.T, f func(tpm transport.TPM, d *tpmkey.Device)) {
	t.Helper()
	tpm, err := tpmdev.Open("swtpm:"+p.socket, "")
	require.NoError(t, err)
	defer tpm.Close()
	d, err := tpmkey.New(tpmkey.Config{TPM: tpm})
	require.NoError(t, err)
	f(tpm, d)
}

func (p *provider) file(name string) string { return filepath.Join(p.dir, name) }

// TestOpenSSLReadsOurs signs with OpenSSL's provider and our key files.
func TestOpenSSLReadsOurs(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	keys := map[string]crypto.PublicKey{}
	p.ours(t, func(tpm transport.TPM, d *tpmkey.Device) {
		for name, tmpl := range map[string]tpmkey.Template{
			"rsa": tpmkey.RSA(2048, tpmkey.Sign), "p256": tpmkey.ECC(elliptic.P256(), tpmkey.Sign), "p384": tpmkey.ECC(elliptic.P384(), tpmkey.Sign),
		} {
			b, err := d.Create(tmpl)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(p.file(name+".key"), b.MarshalPEM(), 0o600))
			keys[name] = b.Public()
		}
	})
	p.readsAll(t, keys)
	// Again with a parent that is persistent.
	p.ours(t, func(tpm transport.TPM, d *tpmkey.Device) {
		persistSRK(t, tpm)
		for name, tmpl := range map[string]tpmkey.Template{
			"rsa": tpmkey.RSA(2048, tpmkey.Sign), "p256": tpmkey.ECC(elliptic.P256(), tpmkey.Sign),
		} {
			b, err := d.Create(tmpl)
			require.NoError(t, err)
			require.Equal(t, tpmkey.SRKHandle, b.Parent())
			require.NoError(t, os.WriteFile(p.file(name+".key"), b.MarshalPEM(), 0o600))
			keys[name] = b.Public()
		}
	})
	p.readsAll(t, keys)
}

func (p *provider) readsAll(t *testing.T, keys map[string]crypto.PublicKey) {
	t.Helper()
	message := []byte("signed by OpenSSL with a key of ours")
	digest := sha256.Sum256(message)
	require.NoError(t, os.WriteFile(p.file("message"), message, 0o600))
	for name, pub := range keys {
		out, err := p.run(t, "pkey", "-in", name+".key", "-noout", "-text")
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "TPM 2.0")
		out, err = p.run(t, "pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", name+".key", "-in", "message", "-out", "sig")
		require.NoError(t, err, string(out))
		sig, err := os.ReadFile(p.file("sig"))
		require.NoError(t, err)
		switch pub := pub.(type) {
		case *rsa.PublicKey:
			require.NoError(t, rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig))
		case *ecdsa.PublicKey:
			require.True(t, ecdsa.VerifyASN1(pub, digest[:], sig))
		}
	}
}

// TestWeReadOpenSSLs signs with us and the key files of OpenSSL's provider.
func TestWeReadOpenSSLs(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	for _, args := range [][]string{
		{"genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", "theirs.key"},
		{"genpkey", "-algorithm", "RSA", "-pkeyopt", "bits:2048", "-out", "theirs.key"},
	} {
		out, err := p.run(t, args...)
		require.NoError(t, err, string(out))
		data, err := os.ReadFile(p.file("theirs.key"))
		require.NoError(t, err)
		b, err := tpmkey.ParsePEM(bytes.TrimSpace(data))
		require.NoError(t, err)
		p.ours(t, func(_ transport.TPM, d *tpmkey.Device) {
			k, err := d.Load(b)
			require.NoError(t, err)
			digest := sha256.Sum256(nil)
			_, err = k.Sign(nil, digest[:], crypto.SHA256)
			require.NoError(t, err)
		})
	}
}
