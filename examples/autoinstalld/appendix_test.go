package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

const sampleConfig = "hostname SN19842256\n!\nsnmp-server community s3cret\n"

// shell runs a command of the appendix in dir.
func shell(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(peer.Need(t, program), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s: %s", program, strings.Join(args, " "), out)
}

// TestAppendixA goes through RFC 8886's appendix A. Steps 1 and 2 are openssl's:
// the operator has nothing else. Step 3 is ours.
func TestAppendixA(t *testing.T) {
	peer.Need(t, "openssl")
	for _, algorithm := range []string{"ec-p256", "ec-p384", "rsa-2048"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			// A.1: the router makes its key and certificate.
			dir, cert := keygen(t, "SN19842256", "-algorithm", algorithm)
			work := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(work, "SN19842256.cfg"), []byte(sampleConfig), 0o600))
			b, err := os.ReadFile(cert)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(work, "SN19842256.crt"), b, 0o600))
			shell(t, work, "openssl", "x509", "-in", "SN19842256.crt", "-noout", "-subject")
			for _, tool := range []string{"smime", "cms"} {
				for _, cipher := range []string{"-aes-128-cbc", "-aes-256-cbc", "-aes-128-gcm", "-aes-256-gcm"} {
					if tool == "smime" && (strings.HasPrefix(algorithm, "ec") || strings.HasSuffix(cipher, "gcm")) {
						continue // openssl smime can't
					}
					for _, form := range []string{"PEM", "DER", "SMIME"} {
						for _, extra := range [][]string{{}, {"-binary"}, {"-stream"}, {"-binary", "-stream"}} {
							name := fmt.Sprintf("%s %s %s %s", tool, cipher, form, strings.Join(extra, " "))
							// A.2: the operator encrypts.
							args := append([]string{tool, "-encrypt", cipher, "-in", "SN19842256.cfg", "-out", "SN19842256.enc", "-outform", form}, extra...)
							shell(t, work, "openssl", append(args, "SN19842256.crt")...)
							// A.3: the router decrypts and uses it.
							code, _, errs := invoke(t, "reset", "-dir", dir)
							require.Zero(t, code, errs)
							code, _, errs = invoke(t, "load", "-dir", dir, "-encrypted-only", filepath.Join(work, "SN19842256.enc"))
							require.Zero(t, code, "%s: %s", name, errs)
							require.Equal(t, sampleConfig, installed(t, dir), name)
						}
					}
				}
			}
		})
	}
}

// TestAppendixAOverTheNetwork is step 3 with a server, as the appendix has it,
// and what can go wrong on the way there.
func TestAppendixAOverTheNetwork(t *testing.T) {
	peer.Need(t, "openssl")
	dir, cert := keygen(t, "SN19842256")
	_, otherCert := keygen(t, "SN2")
	work := t.TempDir()
	plain := filepath.Join(work, "plain.cfg")
	require.NoError(t, os.WriteFile(plain, []byte(sampleConfig), 0o600))
	encrypt := func(cert string, args ...string) []byte {
		shell(t, work, "openssl", append(append([]string{"cms", "-encrypt", "-binary", "-in", plain, "-out", "out", "-outform", "DER"}, args...), cert)...)
		b, err := os.ReadFile(filepath.Join(work, "out"))
		require.NoError(t, err)
		return b
	}
	good := encrypt(cert, "-aes-256-gcm")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-40] ^= 4
	served := newFileServer(t)
	run := func(args ...string) (int, string) {
		code, _, errs := invoke(t, append([]string{"run", "-dir", dir, "-serial", "SN19842256", "-server", served.addr, "-once"}, args...)...)
		return code, errs
	}
	for name, tt := range map[string]struct {
		file []byte
		code int
		text string
	}{
		"no file":                  {nil, 3, "no such file"},
		"zero bytes":               {[]byte{}, 4, "the file is empty"},
		"plain, encrypted only":    {[]byte(sampleConfig), 4, "only encrypted ones are taken"},
		"another device's":         {encrypt(otherCert, "-aes-256-gcm"), 4, "can't be decrypted"},
		"another device's, CBC":    {encrypt(otherCert, "-aes-256-cbc"), 4, "can't be decrypted"},
		"cut off":                  {good[:len(good)-10], 4, "can't be decrypted"},
		"cut off early":            {good[:30], 4, "can't be decrypted"},
		"one bit changed":          {flipped, 4, "can't be decrypted"},
		"something after the file": {append(bytes.Clone(good), "more"...), 4, "can't be decrypted"},
	} {
		served.set("SN19842256.enc", tt.file)
		code, errs := run("-encrypted-only")
		require.Equal(t, tt.code, code, "%s: %s", name, errs)
		require.Contains(t, errs, tt.text, name)
		require.NoFileExists(t, filepath.Join(dir, configFile), name)
		st := status(t, dir)
		require.NotEmpty(t, st.Reason, name)
		require.Equal(t, tt.code == 4, st.Refused, name)
	}
	served.set("SN19842256.enc", good)
	code, errs := run("-encrypted-only", "-file", "SN19842256.enc")
	require.Zero(t, code, errs)
	require.Equal(t, sampleConfig, installed(t, dir))

	// A factory reset begins anew. Without -encrypted-only plain files are taken.
	code, _, errs = invoke(t, "reset", "-dir", dir)
	require.Zero(t, code, errs)
	served.set("SN19842256.enc", nil)
	served.set("SN19842256.cfg", []byte(sampleConfig))
	code, errs = run()
	require.Zero(t, code, errs)
	require.False(t, status(t, dir).Installed.Encrypted)
}

// TestOwnersSignature has openssl sign inside and encrypt outside.
func TestOwnersSignature(t *testing.T) {
	peer.Need(t, "openssl")
	dir, cert := keygen(t, "SN19842256")
	work := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(work, "cfg"), []byte(sampleConfig), 0o600))
	for _, who := range []string{"owner", "stranger"} {
		shell(t, work, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN="+who, "-keyout", who+".key", "-out", who+".crt", "-days", "30")
		shell(t, work, "openssl", "cms", "-sign", "-binary", "-nodetach", "-in", "cfg", "-signer", who+".crt", "-inkey", who+".key", "-outform", "DER", "-out", who+".signed")
		shell(t, work, "openssl", "cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", who+".signed", "-outform", "PEM", "-out", who+".enc", cert)
	}
	shell(t, work, "openssl", "cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", "cfg", "-outform", "PEM", "-out", "unsigned.enc", cert)
	served := newFileServer(t)
	for _, name := range []string{"stranger", "unsigned", "owner"} {
		b, err := os.ReadFile(filepath.Join(work, name+".enc"))
		require.NoError(t, err)
		served.set("SN19842256.enc", b)
		code, _, errs := invoke(t, "run", "-dir", dir, "-serial", "SN19842256", "-server", served.addr, "-once", "-owner-roots", filepath.Join(work, "owner.crt"))
		if name == "owner" {
			require.Zero(t, code, errs)
			require.Equal(t, sampleConfig, installed(t, dir))
			require.Equal(t, "CN=owner", status(t, dir).Installed.Owner)
		} else {
			require.Equal(t, 4, code, errs)
		}
	}
	// "load" has the policy of the last "run".
	code, _, errs := invoke(t, "load", "-dir", dir, filepath.Join(work, "unsigned.enc"))
	require.Equal(t, 4, code, errs)
	require.Contains(t, errs, "not signed by its owner")
}

// TestAuthenticatedOnly refuses AES-CBC, which a change does not show in, and
// keeps that for the next load.
func TestAuthenticatedOnly(t *testing.T) {
	peer.Need(t, "openssl")
	dir, cert := keygen(t, "SN1")
	work := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(work, "cfg"), []byte(sampleConfig), 0o600))
	served := newFileServer(t)
	for _, cipher := range []string{"cbc", "gcm"} {
		shell(t, work, "openssl", "cms", "-encrypt", "-binary", "-aes-256-"+cipher, "-in", "cfg", "-outform", "DER", "-out", cipher+".enc", cert)
	}
	run := func(file string) (int, string) {
		b, err := os.ReadFile(filepath.Join(work, file))
		require.NoError(t, err)
		served.set("SN1.enc", b)
		code, _, errs := invoke(t, "run", "-dir", dir, "-serial", "SN1", "-server", served.addr, "-once", "-authenticated-only")
		return code, errs
	}
	for _, file := range []string{"cfg", "cbc.enc"} {
		code, errs := run(file)
		require.Equal(t, 4, code, "%s: %s", file, errs)
		require.NoFileExists(t, filepath.Join(dir, configFile), file)
	}
	// "load" has the policy of the last "run".
	for _, file := range []string{"cfg", "cbc.enc"} {
		code, _, errs := invoke(t, "load", "-dir", dir, filepath.Join(work, file))
		require.Equal(t, 4, code, "%s: %s", file, errs)
	}
	code, errs := run("gcm.enc")
	require.Zero(t, code, errs)
	require.Equal(t, sampleConfig, installed(t, dir))
	require.True(t, status(t, dir).Installed.Authenticated)

	// "load" alone demands it for good too.
	dir, cert = keygen(t, "SN1")
	shell(t, work, "openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-in", "cfg", "-outform", "DER", "-out", "cbc.enc", cert)
	for _, args := range [][]string{{"-authenticated-only"}, nil} {
		code, _, errs := invoke(t, append(append([]string{"load", "-dir", dir}, args...), filepath.Join(work, "cbc.enc"))...)
		require.Equal(t, 4, code, errs)
	}
	// Without keys nothing could ever be taken.
	code, _, errs = invoke(t, "run", "-dir", t.TempDir(), "-serial", "SN1", "-server", served.addr, "-once", "-authenticated-only")
	require.Equal(t, 1, code, errs)
	require.Contains(t, errs, "keygen")
}

func TestOperatorsKey(t *testing.T) {
	peer.Need(t, "openssl")
	work := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(work, "cfg"), []byte(sampleConfig), 0o600))
	for _, policy := range []string{"prefer", "replace"} {
		dir, vendor := keygen(t, "SN1")
		code, _, errs := invoke(t, "keygen", "-dir", dir, "-serial", "SN1", "-operator", policy)
		require.Zero(t, code, errs)
		operator := filepath.Join(dir, "SN1-operator.crt")
		load := func(cert string) int {
			shell(t, work, "openssl", "cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", "cfg", "-outform", "PEM", "-out", "enc", cert)
			code, _, _ := invoke(t, "load", "-dir", dir, filepath.Join(work, "enc"))
			return code
		}
		b, err := os.ReadFile(operator)
		require.NoError(t, err)
		kept := filepath.Join(work, policy+".crt")
		require.NoError(t, os.WriteFile(kept, b, 0o600))
		require.Zero(t, load(kept))
		want := map[string]int{"prefer": 0, "replace": 4}[policy]
		require.Equal(t, want, load(vendor), policy)
		code, _, errs = invoke(t, "reset", "-dir", dir)
		require.Zero(t, code, errs)
		require.Equal(t, want, load(vendor), policy)
		require.Equal(t, 4-want, load(kept), policy)
	}
}
