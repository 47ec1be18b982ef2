package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"router": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// call runs the program in this process.
func call(stdin string, args ...string) (stdout, stderr string, code int) {
	var out, log, line bytes.Buffer
	err := run(context.Background(), args, strings.NewReader(stdin), &out, &log)
	code = report(&line, err)
	return out.String(), line.String(), code
}

func certificate(t *testing.T, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

// newToken returns a token of a conductor that exists only on paper.
func newToken(t *testing.T, assetIDs ...string) string {
	t.Helper()
	ctx := t.Context()
	reg, err := sco.NewRegistry(sco.RegistryConfig{Store: &sco.MemoryStore{}})
	require.NoError(t, err)
	require.NoError(t, reg.Configure(ctx, "r", func(r *sco.Router, _ bool) error {
		r.Mode = sco.ModeWeak
		for i, id := range assetIDs {
			r.Nodes = append(r.Nodes, sco.Node{Name: fmt.Sprintf("node%d", i), AssetID: id, Role: "combo"})
		}
		return nil
	}))
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	caTemplate := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca := certificate(t, caTemplate, caTemplate, caKey.Public(), caKey)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	cert := certificate(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "conductor"}}, ca, key.Public(), caKey)
	issuer, err := sco.NewIssuer(sco.IssuerConfig{Registry: reg, Settings: func(context.Context) (*sco.Settings, error) {
		return &sco.Settings{Certificate: cert, Key: key, CA: ca}, nil
	}})
	require.NoError(t, err)
	token, err := issuer.IssueToken(ctx, "r", 0)
	require.NoError(t, err)
	return token.Reveal()
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// TestBadInput: one clear line, a status other than 0, no token in it, and
// nothing made.
func TestBadInput(t *testing.T) {
	one, two := newToken(t, "A"), newToken(t, "A", "B")
	garbage := write(t, "garbage")
	huge := write(t, strings.Repeat("x", 1<<20))
	config := func(v map[string]any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return write(t, string(b))
	}
	altered := one[:len(one)-10] + "AAAAAAAAAA"
	refused := "127.0.0.1:1"
	devKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certFile := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t, template, template, devKey.Public(), devKey).Raw})))
	der, err := x509.MarshalPKCS8PrivateKey(devKey)
	require.NoError(t, err)
	keyFile := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	dir := filepath.Join(t.TempDir(), "router")
	onboard := func(args ...string) []string { return append([]string{"onboard", "-dir", dir}, args...) }
	for _, tc := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"no command", "", nil, 2, "router -h"},
		{"unknown command", "", []string{"frob"}, 2, `"frob"`},
		{"unknown flag", "", onboard("-frob"), 2, "-frob"},
		{"argument too many", "", onboard("x"), 2, `"x"`},
		{"no dir", one, []string{"onboard", "-token", "-"}, 2, "-dir is missing"},
		{"no token", "", onboard("-asset-id", "A"), 2, "-token"},
		{"token and config", one, onboard("-token", "-", "-onboarding-config", garbage), 2, "either"},
		{"token file is not there", "", onboard("-token", "nope"), 1, "nope"},
		{"token file is garbage", "", onboard("-token", garbage), 1, "not an onboarding token"},
		{"token file is huge", "", onboard("-token", huge), 1, "bytes"},
		{"token is empty", "", onboard("-token", "-"), 1, "nothing to read"},
		{"token was altered", altered, onboard("-token", "-", "-conductor", refused), 1, "token"},
		{"token was cut", one[:len(one)/2], onboard("-token", "-", "-conductor", refused), 1, "token"},
		{"no conductor", one, onboard("-token", "-"), 1, "Addresses"},
		{"bad conductor", one, onboard("-token", "-", "-conductor", "nowhere"), 1, `"nowhere"`},
		{"asset-id of another router", one, onboard("-token", "-", "-conductor", refused, "-asset-id", "Z"), 1, `"Z"`},
		{"asset-id is needed", two, onboard("-token", "-", "-conductor", refused), 1, "AssetID"},
		{"config is garbage", "", onboard("-onboarding-config", garbage), 1, "onboarding"},
		{"config without token", "", onboard("-onboarding-config", config(map[string]any{"asset-id": "A"})), 1, "no token"},
		{"config with unknown field", "", onboard("-onboarding-config", config(map[string]any{"token": one, "frob": 1})), 1, "onboarding configuration"},
		{"config with a bad address", "", onboard("-onboarding-config", config(map[string]any{"token": one, "conductor-addresses": []string{"x"}})), 1, `"x"`},
		{"devid cert without key", one, onboard("-token", "-", "-devid-cert", garbage), 2, "go together"},
		{"devid cert is garbage", one, onboard("-token", "-", "-conductor", refused, "-devid-cert", garbage, "-devid-key", garbage), 1, "-devid-cert"},
		{"tpm with a key that is not in it", one, onboard("-token", "-", "-conductor", refused, "-tpm", "swtpm:/nope", "-devid-cert", certFile, "-devid-key", keyFile), 2, "leave -tpm out"},
		{"unknown tpm", one, onboard("-token", "-", "-conductor", refused, "-tpm", "frob"), 1, `"frob"`},
		{"tpm socket is not there", one, onboard("-token", "-", "-conductor", refused, "-tpm", "swtpm:/nope"), 1, "/nope"},
		{"run without dir", "", []string{"run"}, 2, "-dir is missing"},
		{"run before onboarding", "", []string{"run", "-dir", dir}, 1, "router onboard"},
		{"run with a bad forward", "", []string{"run", "-dir", dir, "-forward", "x"}, 2, `"x"`},
		{"run with half a forward", "", []string{"run", "-dir", dir, "-forward", "local:127.0.0.1:1"}, 2, "HOST:PORT=HOST:PORT"},
		{"status without dir", "", []string{"status"}, 2, "-dir is missing"},
		{"status of nothing", "", []string{"status", "-dir", dir}, 1, "router onboard"},
		{"ek without tpm", "", []string{"ek"}, 2, "-tpm is missing"},
		{"ek of no tpm", "", []string{"ek", "-tpm", "none"}, 2, "no endorsement key"},
		{"ek with a bad algorithm", "", []string{"ek", "-tpm", "simulator", "-algorithm", "dsa"}, 2, `"dsa"`},
		{"ek of a device that is not there", "", []string{"ek", "-tpm", "/dev/nope"}, 1, "/dev/nope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, code := call(tc.stdin, tc.args...)
			require.Equal(t, tc.code, code, stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line: %s", stderr)
			require.Contains(t, stderr, tc.want)
			require.Less(t, len(stderr), 1000)
			require.Empty(t, stdout)
			for _, part := range strings.Split(one+"."+two+"."+altered, ".") {
				require.NotContains(t, stderr, part, "no part of a token")
			}
			_, err := os.Stat(dir)
			require.ErrorIs(t, err, os.ErrNotExist, "nothing was made")
		})
	}
}

// TestConductorIsAway is a failure that a later run mends: it is said in one line
// and keeps what is needed to go on.
func TestConductorIsAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "router")
	for range 2 {
		_, stderr, code := call(newToken(t, "A"), "onboard", "-dir", dir, "-token", "-", "-conductor", "127.0.0.1:1", "-conductor", "127.0.0.1:2", "-asset-id", "A")
		require.Equal(t, 1, code)
		require.Equal(t, 1, strings.Count(stderr, "\n"))
		require.Contains(t, stderr, "127.0.0.1:1")
		require.Contains(t, stderr, "127.0.0.1:2")
		out, _, code := call("", "status", "-dir", dir)
		require.Equal(t, 0, code)
		require.Contains(t, out, "not-onboarded")
	}
}

// TestAddressesOfOnboardingServeTheTunnel: what onboarding accepts must not keep
// "router run" from starting.
func TestAddressesOfOnboardingServeTheTunnel(t *testing.T) {
	token := newToken(t, "A")
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewSignerFromKey(priv)
	require.NoError(t, err)
	accepted := 0
	for _, host := range []string{"3f2a9c1b7d12", "123456789012", "a", "a.", "127.1", "0x7f000001", "1.2.3.4", "1.2.3.999", "conductor.example", "_x-y.z", "[::1]", "[::ffff:1.2.3.4]", "[fe80::1%eth0]", "a b", "", "::1"} {
		for _, port := range []string{"1", "933", "00933", "65535", "65536", "-1", "x", ""} {
			address := host + ":" + port
			b, err := json.Marshal(map[string]any{"token": token, "conductor-addresses": []string{address}})
			require.NoError(t, err)
			if _, err := sco.ParseOnboardingConfig(b); err != nil {
				continue
			}
			accepted++
			_, err = tunnel.NewClient(tunnel.ClientConfig{Addresses: []string{address}, HostKeys: []ssh.PublicKey{key.PublicKey()}, Signer: key})
			require.NoError(t, err, address)
		}
	}
	require.Greater(t, accepted, 20)
}

func TestParseForwards(t *testing.T) {
	local, remote, err := parseForwards(list{"local:127.0.0.1:1=b:2", "remote:c:3=[::1]:4", "e:5=f:6"})
	require.NoError(t, err)
	require.Equal(t, []tunnel.Forward{{Listen: "127.0.0.1:1", Target: "b:2"}, {Listen: "e:5", Target: "f:6"}}, local)
	require.Equal(t, []tunnel.Forward{{Listen: "c:3", Target: "[::1]:4"}}, remote)
}

func TestEndorsementKeyOfEverySimulator(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		if tpm.Spec() == "" {
			t.Skip("this simulator can't be reached by its name")
		}
		first, stderr, code := call("", "ek", "-tpm", tpm.Spec())
		require.Equal(t, 0, code, stderr)
		require.NoError(t, tpm.Reset())
		second, _, _ := call("", "ek", "-tpm", tpm.Spec())
		require.Equal(t, first, second, "the key outlives a restart")
		ecc, _, code := call("", "ek", "-tpm", tpm.Spec(), "-algorithm", "ecc")
		require.Equal(t, 0, code)
		require.NotEqual(t, first, ecc)
		der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(ecc))
		require.NoError(t, err)
		pub, err := x509.ParsePKIXPublicKey(der)
		require.NoError(t, err)
		require.IsType(t, &ecdsa.PublicKey{}, pub)
	})
}

// TestDeviceIDKeyInTPM loads a TSS2 PRIVATE KEY file.
func TestDeviceIDKeyInTPM(t *testing.T) {
	tpm := tpmsim.New(t)
	if tpm.Spec() == "" {
		t.Skip("this simulator can't be reached by its name")
	}
	dev, err := tpmkey.New(tpmkey.Config{TPM: tpm})
	require.NoError(t, err)
	blob, err := dev.Create(tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
	require.NoError(t, err)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{SerialNumber: "A"}}
	cert := certificate(t, template, &x509.Certificate{Subject: pkix.Name{CommonName: "Maker"}}, blob.Public(), caKey)
	certFile := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	keyFile := write(t, string(blob.MarshalPEM()))

	d := deviceFlags{tpm: noTPM, cert: certFile, key: keyFile}
	_, _, err = d.open()
	require.ErrorContains(t, err, "say by which with -tpm")
	d.tpm = tpm.Spec()
	s, closeSigner, err := d.open()
	require.NoError(t, err)
	defer closeSigner()
	ev, err := s.Evidence(t.Context())
	require.NoError(t, err)
	require.Equal(t, sco.EvidenceDeviceID, ev.Kind)
	digest := [32]byte{1, 2, 3}
	proof, err := s.Prove(t.Context(), sco.Challenge{Digest: digest})
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(blob.Public().(*ecdsa.PublicKey), digest[:], proof.Signature))
}

func TestApplyIsIdempotentAndDurable(t *testing.T) {
	b := &box{dir: t.TempDir()}
	r, err := b.Apply(t.Context(), []byte(`{"a":1}`))
	require.NoError(t, err)
	require.Equal(t, tunnel.RebootNeeded, r)
	for range 2 {
		r, err = b.Apply(t.Context(), []byte(`{"a":1}`))
		require.NoError(t, err)
		require.Equal(t, tunnel.Applied, r)
	}
	_, err = b.Apply(t.Context(), []byte("garbage"))
	require.Error(t, err)
	have, err := os.ReadFile(filepath.Join(b.dir, fileConfig))
	require.NoError(t, err)
	require.JSONEq(t, `{"a":1}`, string(have))
}

// TestApplyStopped stops the storing of a configuration before each durable step:
// the old or the new one is there, and applying again ends well.
func TestApplyStopped(t *testing.T) {
	before, after := []byte(`{"version":1}`), []byte(`{"version":2}`)
	durabletest.EachStop(t,
		func(t *testing.T) string {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, fileConfig), before, 0o600))
			return dir
		},
		func(dir string, w durable.Writer) error {
			_, err := (&box{dir: dir, w: w}).Apply(t.Context(), after)
			return err
		},
		func(t *testing.T, dir string, done bool) {
			have, err := os.ReadFile(filepath.Join(dir, fileConfig))
			require.NoError(t, err)
			require.Contains(t, []string{string(before), string(after)}, string(have))
			if done {
				require.Equal(t, string(after), string(have))
			}
			b := &box{dir: dir}
			_, err = b.Apply(t.Context(), after)
			require.NoError(t, err)
			r, err := b.Apply(t.Context(), after)
			require.NoError(t, err)
			require.Equal(t, tunnel.Applied, r)
		})
}
