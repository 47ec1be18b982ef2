package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
)

// manufacturer makes device ID certificates.
type manufacturer struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	n    int64
}

func newManufacturer(t *testing.T) *manufacturer {
	t.Helper()
	m := &manufacturer{t: t, dir: t.TempDir()}
	var err error
	m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, m.key.Public(), m.key)
	require.NoError(t, err)
	m.root, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(m.roots(), encodePEM("CERTIFICATE", der), 0o600))
	return m
}

func (m *manufacturer) roots() string { return filepath.Join(m.dir, "roots.pem") }

// device returns the flags for a device with this serial number.
func (m *manufacturer) device(serialNumber string) []string {
	m.t.Helper()
	m.n++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(m.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(m.n + 1), Subject: pkix.Name{CommonName: "Router", SerialNumber: serialNumber},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.root, key.Public(), m.key)
	require.NoError(m.t, err)
	keyPEM, err := encodeKey(key)
	require.NoError(m.t, err)
	base := filepath.Join(m.dir, serialNumber)
	require.NoError(m.t, os.WriteFile(base+".pem", encodePEM("CERTIFICATE", der), 0o600))
	require.NoError(m.t, os.WriteFile(base+".key", keyPEM, 0o600))
	return []string{"-devid-cert", base + ".pem", "-devid-key", base + ".key"}
}

// TestStory goes the whole way with every kind of evidence.
func TestStory(t *testing.T) {
	s := newSite(t)
	s.start("-allow-listen", "127.0.0.0/8:*")
	maker := newManufacturer(t)
	s.must("devid", "add", "-roots", maker.roots())

	for _, tc := range []struct {
		name, mode string
		evidence   sco.EvidenceKind
		binding    string
		// device returns the device's flags and environment, and flags for
		// "router add".
		device func(t *testing.T, asset string) (flags, env, add []string)
	}{
		{"psk-only", "psk-only", sco.EvidenceNone, "ssh-key", nil},
		{"weak", "weak", sco.EvidenceSelfSigned, "ssh-key", nil},
		{"weak with a TPM", "weak", sco.EvidenceTPM, "endorsement-key", func(t *testing.T, _ string) (flags, env, add []string) {
			needPeer(t, "swtpm")
			return []string{"-tpm", tpmSpec(t, tpmsim.New(t))}, nil, nil
		}},
		{"strong with a device ID", "strong", sco.EvidenceDeviceID, "device-id", func(_ *testing.T, asset string) (flags, env, add []string) {
			return maker.device(asset), nil, nil
		}},
		{"strong with a TPM", "strong", sco.EvidenceTPM, "endorsement-key", func(t *testing.T, _ string) (flags, env, add []string) {
			needPeer(t, "swtpm")
			spec := tpmSpec(t, tpmsim.New(t))
			return []string{"-tpm", spec}, nil, []string{"-endorsement-key", endorsementKey(t, nil, spec)}
		}},
		{"strong with a TPM read by tpm2-tools", "strong", sco.EvidenceTPM, "endorsement-key", func(t *testing.T, _ string) (flags, env, add []string) {
			needPeer(t, "swtpm")
			tpm := tpmsim.New(t)
			ca, err := tpmsim.NewEKCA()
			require.NoError(t, err)
			require.NoError(t, tpm.ProvisionEK(ca))
			spec := tpmSpec(t, tpm)
			file := readPublic(t, spec)
			der, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, base64.StdEncoding.EncodeToString(der), endorsementKey(t, nil, spec), "router ek prints what tpm2-tools print")
			return []string{"-tpm", spec}, nil, []string{"-endorsement-key", file}
		}},
		{"strong with the simulator", "strong", sco.EvidenceTPM, "endorsement-key", func(t *testing.T, _ string) (flags, env, add []string) {
			needPeer(t, "swtpm")
			env = []string{"XDG_CACHE_HOME=" + t.TempDir()}
			return []string{"-tpm", "simulator"}, env, []string{"-endorsement-key", endorsementKey(t, env, "simulator")}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := *s
			s.t = t
			name := strings.ReplaceAll(tc.name, " ", "-")
			asset := "asset-" + name
			d := newDevice(t, asset)
			var add []string
			if tc.device != nil {
				d.flags, d.env, add = tc.device(t, asset)
			}
			s.must(append([]string{"router", "add", "-name", name, "-mode", tc.mode, "-node", "node0", "-asset-id", asset}, add...)...)
			d.mustOnboard(s.token(name))
			n, secret := s.node(name)
			require.Equal(t, "(redacted)", secret)
			require.Equal(t, sco.StateKeysExchanged, n.Status.State)
			require.Equal(t, tc.evidence, n.Status.Evidence)
			require.Equal(t, tc.binding, n.Status.Binding.Kind)
			require.Equal(t, "X25519MLKEM768", n.Status.TLSGroup)
			state, initialized := d.state()
			require.Equal(t, "onboarded", state)
			require.False(t, initialized)

			target, local, remote := echo(t), freeAddr(t), freeAddr(t)
			p := d.run("-forward", "local:"+local+"="+target, "-forward", "remote:"+remote+"="+target)
			exchange(t, local)
			exchange(t, remote)
			n = s.waitNode(name, "initialized", func(n *sco.Node) bool { return n.Status.State == sco.StateInitialized && n.Status.Link.Up })
			state, initialized = d.state()
			require.Equal(t, "connected", state)
			require.True(t, initialized)
			p.stop(t)
			s.waitNode(name, "the tunnel is down", func(n *sco.Node) bool { return !n.Status.Link.Up })
			d.mustOnboard(s.token(name)) // Again is harmless.
			again, _ := s.node(name)
			require.Equal(t, n.Status.Binding, again.Status.Binding)
			require.Equal(t, sco.StateInitialized, again.Status.State)
		})
	}
	s.serve.stop(t)
	requireEvents(t, s.dir, "sco.token_issued", "sco.onboarded", "sco.connected", "sco.disconnected")
}

// tpmSpec returns the value for -tpm; the story needs a TPM that another process
// can reach.
func tpmSpec(t *testing.T, tpm *tpmsim.TPM) string {
	t.Helper()
	if tpm.Spec() == "" {
		for _, b := range tpmsim.Backends() {
			if other := b.New(t); other.Spec() != "" {
				return other.Spec()
			}
		}
		t.Skip("no TPM simulator that other processes can reach")
	}
	return tpm.Spec()
}

// endorsementKey asks "router ek".
func endorsementKey(t *testing.T, env []string, spec string) string {
	t.Helper()
	d := newDevice(t, "")
	d.env = env
	out, err := d.cmd("ek", "-tpm", spec).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// readPublic has tpm2-tools write the endorsement key.
func readPublic(t *testing.T, spec string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ek.der")
	cmd := exec.Command(needPeer(t, "tpm2_readpublic"), "-c", "0x81010001", "-f", "DER", "-o", file, "-Q")
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+strings.TrimPrefix(spec, "swtpm:"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

func requireEvents(t *testing.T, dir string, types ...string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, fileEvents))
	require.NoError(t, err)
	defer f.Close()
	seen := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e mooring.Event
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e), "%s", lines.Bytes())
		seen[e.Type] = true
	}
	for _, typ := range types {
		require.True(t, seen[typ], "no event %s", typ)
	}
}

// TestModesCanNotBeTalkedDown offers too little.
func TestModesCanNotBeTalkedDown(t *testing.T) {
	s := newSite(t)
	s.start()
	maker, stranger := newManufacturer(t), newManufacturer(t)
	s.must("devid", "add", "-roots", maker.roots())
	for _, tc := range []struct {
		name   string
		flags  func(asset string) []string
		reason string
	}{
		{"no device key", func(string) []string { return nil }, "strong"},
		{"device ID of another serial number", func(string) []string { return maker.device("somebody-else") }, "serialNumber"},
		{"device ID of a stranger", func(asset string) []string { return stranger.device(asset) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := *s
			s.t = t
			name := strings.ReplaceAll(tc.name, " ", "-")
			s.must("router", "add", "-name", name, "-mode", "strong", "-node", "node0", "-asset-id", name)
			d := newDevice(t, name, tc.flags(name)...)
			out, err := d.onboard(s.token(name))
			require.Error(t, err)
			requireOneLine(t, out)
			require.Contains(t, out, "refused")
			n := s.waitNode(name, "the reason is in the router's state", func(n *sco.Node) bool { return n.Status.LastError != "" })
			require.Contains(t, n.Status.LastError, tc.reason)
			require.Equal(t, sco.StateWaiting, n.Status.State)
			state, _ := d.state()
			require.Equal(t, "not-onboarded", state)
		})
	}
	requireEvents(t, s.dir, "sco.attempt_refused")
}

func requireOneLine(t *testing.T, out string) {
	t.Helper()
	require.Equal(t, 1, strings.Count(out, "\n"), "one line: %s", out)
	require.True(t, strings.HasSuffix(out, "\n"))
}

func TestTokensThatAreNoLongerValid(t *testing.T) {
	s := newSite(t)
	s.start()
	for name, spoil := range map[string]func(router string){
		"secret-changed": func(r string) { s.must("router", "set", "-name", r, "-pre-shared-secret", "") },
		"disabled":       func(r string) { s.must("router", "set", "-name", r, "-mode", "disabled") },
		"removed":        func(r string) { s.must("router", "remove", "-name", r) },
	} {
		t.Run(name, func(t *testing.T) {
			s.must("router", "add", "-name", name, "-mode", "psk-only", "-node", "node0", "-asset-id", name)
			token := s.token(name)
			spoil(name)
			out, err := newDevice(t, name).onboard(token)
			require.Error(t, err)
			requireOneLine(t, out)
		})
	}
	t.Run("certificate replaced while serving", func(t *testing.T) {
		s.must("router", "add", "-name", "cert", "-mode", "psk-only", "-node", "node0", "-asset-id", "cert")
		token := s.token("cert")
		other := newSite(t)
		for _, name := range []string{fileCA, fileCert, fileKey} {
			b, err := os.ReadFile(filepath.Join(other.dir, name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), b, 0o600))
		}
		out, err := newDevice(t, "cert").onboard(token)
		require.Error(t, err)
		requireOneLine(t, out)
		newDevice(t, "cert").mustOnboard(s.token("cert"))
	})
}

// TestReplacement is the RMA: the second device with an asset-id is refused until
// the first is released.
func TestReplacement(t *testing.T) {
	s := newSite(t)
	s.start()
	s.must("router", "add", "-name", "r", "-mode", "psk-only", "-node", "node0", "-asset-id", "A")
	require.Contains(t, s.serve.stderr.String(), "-allow-dial=", "the defaults are pointed out")
	first, second := newDevice(t, "A"), newDevice(t, "A")
	first.mustOnboard(s.token("r"))
	out, err := second.onboard(s.token("r"))
	require.Error(t, err)
	requireOneLine(t, out)
	require.NotEmpty(t, s.waitNode("r", "reason", func(n *sco.Node) bool { return n.Status.LastError != "" }).Status.LastError)
	s.must("router", "release", "-name", "r", "-asset-id", "A")
	second.mustOnboard(s.token("r"))
	p := first.run()
	p.stderr.wait(t, "(unable to authenticate)", p.exited)
	requireEvents(t, s.dir, "sco.binding_released")
}

// TestLegacyPortsFollowTheModes changes modes while the conductor serves.
func TestLegacyPortsFollowTheModes(t *testing.T) {
	s := newSite(t)
	legacy := freeAddr(t)
	s.start("-legacy", legacy)
	ask := func(asset string) string {
		c, err := net.DialTimeout("tcp", legacy, time.Second)
		if err != nil {
			return "closed"
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, asset+"\n")
		b, _ := io.ReadAll(c)
		return string(b)
	}
	require.Equal(t, "closed", ask("old"))
	s.must("router", "add", "-name", "new", "-mode", "weak", "-node", "node0", "-asset-id", "new")
	s.must("router", "add", "-name", "old", "-node", "node0", "-asset-id", "old")
	require.Eventually(t, func() bool { return ask("old") == "allowed\n" }, patience, 50*time.Millisecond)
	require.Equal(t, "refused\n", ask("new"), "every refusal looks the same")
	s.serve.stderr.wait(t, `legacy onboarding refused.*uses secure conductor onboarding`, s.serve.exited)
	require.Equal(t, "refused\n", ask("unknown"))
	require.Contains(t, ask(strings.Repeat("x", 10_000)), "")
	s.must("legacy", "-asset-id", "old")
	s.must("router", "set", "-name", "old", "-mode", "psk-only")
	require.Eventually(t, func() bool { return ask("old") == "closed" }, patience, 50*time.Millisecond)
	_, err := s.call("legacy", "-asset-id", "old")
	require.Error(t, err)
	s.serve.stop(t)
}

func TestOpenSSHIntoConductor(t *testing.T) {
	program := needPeer(t, "ssh")
	s := newSite(t)
	s.start()
	s.must("router", "add", "-name", "r", "-mode", "psk-only", "-node", "node0", "-asset-id", "A")
	d := newDevice(t, "A")
	d.mustOnboard(s.token("r"))
	host, port, err := net.SplitHostPort(s.ssh)
	require.NoError(t, err)
	base := []string{"-F", "none", "-p", port, "-i", filepath.Join(d.dir, "ssh_key"), "-o", "UserKnownHostsFile=" + filepath.Join(d.dir, "known_hosts"),
		"-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "ExitOnForwardFailure=yes", "-l", "router", host}
	target, local := echo(t), freeAddr(t)
	p := start(t, exec.Command(program, append([]string{"-N", "-L", local + ":" + target, "-R", "0:" + target}, base...)...))
	exchange(t, local)
	exchange(t, "127.0.0.1:"+p.stderr.wait(t, `Allocated port (\d+) for remote forward`, p.exited))
	n := s.waitNode("r", "connected", func(n *sco.Node) bool { return n.Status.Link.Up })
	require.Equal(t, sco.StateConnected, n.Status.State, "it can't be initialized")
	p.kill()
	out, err := exec.Command(program, append(base, "true")...).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "only TCP forwarding is possible here")
}

// TestTwoConductorNodes serves one store by two processes. The router goes to the
// second node when the first dies, and both know its state.
func TestTwoConductorNodes(t *testing.T) {
	a := newSite(t)
	a.start("-node", "conductor-a")
	_, onboardingPort, err := net.SplitHostPort(a.onboarding)
	require.NoError(t, err)
	_, sshPort, err := net.SplitHostPort(a.ssh)
	require.NoError(t, err)
	ip := ownLoopback()
	b := &site{t: t, dir: a.dir, onboarding: net.JoinHostPort(ip, onboardingPort), ssh: net.JoinHostPort(ip, sshPort)}
	b.start("-node", "conductor-b")

	a.must("router", "add", "-name", "r", "-mode", "weak", "-node", "node0", "-asset-id", "A")
	token := a.must("token", "-router", "r", "-conductor", a.onboarding, "-conductor", b.onboarding)
	d := newDevice(t, "A")
	d.mustOnboard(token)
	target, local := echo(t), freeAddr(t)
	p := d.run("-forward", "local:"+local+"="+target)
	exchange(t, local)
	n := a.waitNode("r", "initialized", func(n *sco.Node) bool { return n.Status.State == sco.StateInitialized && n.Status.Link.Up })
	require.Equal(t, "conductor-a", n.Status.Link.Conductor)
	a.serve.kill()
	b.waitNode("r", "at the other node", func(n *sco.Node) bool { return n.Status.Link.Up && n.Status.Link.Conductor == "conductor-b" })
	exchange(t, local)
	// The first node comes back and leaves the tunnel of the second alone.
	a.start("-node", "conductor-a")
	n, _ = a.node("r")
	require.True(t, n.Status.Link.Up)
	require.Equal(t, sco.StateInitialized, n.Status.State)
	// Onboarding works at either.
	a.serve.kill()
	d.mustOnboard(token)
	p.stop(t)
	b.serve.stop(t)
}
