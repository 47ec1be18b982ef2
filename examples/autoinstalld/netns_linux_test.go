package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/peer"
)

const netConfig = "hostname SN1\ninterface eth0\n ip address 192.0.2.77/24\nsnmp-server community s3cret\n"

// site is a network namespace with a server's bridge, and one namespace with
// nothing but a link for each device. The machine's own interfaces are not
// touched: every link is made inside the namespaces.
type site struct {
	name string
	tftp string // what the servers serve
}

func newSite(t *testing.T, devices int) *site {
	t.Helper()
	peer.NeedRoot(t)
	peer.Need(t, "ip")
	var id [4]byte
	_, err := rand.Read(id[:])
	require.NoError(t, err)
	s := &site{name: "moor" + hex.EncodeToString(id[:]), tftp: filepath.Join(t.TempDir(), "tftp")}
	require.NoError(t, os.Mkdir(s.tftp, 0o755))
	// Servers that drop their privileges have to get there.
	for dir := s.tftp; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	s.addNamespace(t, s.server())
	s.ip(t, s.server(), "link", "add", "br0", "type", "bridge")
	s.ip(t, s.server(), "addr", "add", "192.0.2.1/24", "dev", "br0")
	s.ip(t, s.server(), "addr", "add", "fd00:1::1/64", "dev", "br0", "nodad")
	s.ip(t, s.server(), "link", "set", "br0", "up")
	s.ip(t, s.server(), "link", "set", "lo", "up")
	for i := range devices {
		s.addNamespace(t, s.device(i))
		port := "port" + strconv.Itoa(i)
		must(t, "ip", "link", "add", "name", port, "netns", s.server(), "type", "veth", "peer", "name", "eth0", "netns", s.device(i))
		s.ip(t, s.server(), "link", "set", port, "master", "br0")
		s.ip(t, s.server(), "link", "set", port, "up")
	}
	return s
}

func (s *site) server() string      { return s.name + "s" }
func (s *site) device(i int) string { return s.name + "d" + strconv.Itoa(i) }

func (s *site) addNamespace(t *testing.T, name string) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "add", name).CombinedOutput()
	if err != nil {
		peer.Missing(t, "no network namespaces here: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %s", name, out)
		}
	})
}

func (s *site) ip(t *testing.T, ns string, args ...string) {
	t.Helper()
	must(t, "ip", append([]string{"-n", ns}, args...)...)
}

func output(name string, args ...string) ([]byte, error) {
	return exec.Command(name, args...).CombinedOutput()
}

// daemon starts a server in the server's namespace and ends it with the test.
func (s *site) daemon(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", s.server(), peer.Need(t, program)}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", program, out.String())
		}
	})
	return cmd
}

// dnsmasq serves DHCP, and TFTP when tftp is set.
func (s *site) dnsmasq(t *testing.T, tftp bool, args ...string) *exec.Cmd {
	t.Helper()
	base := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--no-ping", "--user=root",
		"--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,2m", "--pid-file=", "--log-facility=-",
		"--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"),
	}
	if tftp {
		base = append(base, "--enable-tftp", "--tftp-root="+s.tftp)
	}
	return s.daemon(t, "dnsmasq", append(base, args...)...)
}

// boot runs the program in a device's namespace.
func (s *site) boot(t *testing.T, i int, args ...string) *exec.Cmd {
	t.Helper()
	return s.inDevice(t, i, self(t, "autoinstalld", append([]string{"run", "-interface", "eth0"}, args...)...))
}

func (s *site) inDevice(t *testing.T, i int, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	ip := peer.Need(t, "ip")
	cmd.Args = append([]string{ip, "netns", "exec", s.device(i), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = ip
	return cmd
}

// publish encrypts to a certificate and puts the file on the server, all at
// once.
func (s *site) publish(t *testing.T, name, certFile, content string) {
	t.Helper()
	b, err := os.ReadFile(certFile)
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	der, err := cms.Encrypt([]byte(content), cms.EncryptConfig{Recipients: []*x509.Certificate{cert}})
	require.NoError(t, err)
	path := filepath.Join(s.tftp, name)
	require.NoError(t, os.WriteFile(path+".new", cms.EncodePEM(der), 0o644))
	require.NoError(t, os.Rename(path+".new", path))
}

// bare checks that a device's namespace is as empty as before.
func (s *site) bare(t *testing.T, i int) {
	t.Helper()
	out, err := output("ip", "-n", s.device(i), "-o", "addr", "show", "dev", "eth0", "scope", "global")
	require.NoError(t, err)
	require.Empty(t, string(out), "no address is left")
	out, err = output("ip", "-n", s.device(i), "route")
	require.NoError(t, err)
	require.Empty(t, string(out), "no route is left")
}

func must(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := output(name, args...)
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

func TestBootWithATPMKey(t *testing.T) {
	// The device has a link and a TPM, nothing else. Its configuration comes
	// later than the device itself.
	s := newSite(t, 1)
	peer.Need(t, "swtpm")
	s.dnsmasq(t, true, "--dhcp-option-force=66,192.0.2.1", "--dhcp-option-force=67,SN1.enc", "--dhcp-option=3,192.0.2.1")
	dir, cert := keygen(t, "SN1", "-tpm", "simulator")
	args := []string{"-dir", dir, "-serial", "SN1", "-encrypted-only", "-once"}

	code, _, errs := finish(t, s.boot(t, 0, args...))
	require.Equal(t, 3, code, errs)
	require.Contains(t, errs, "no such file")
	require.Equal(t, autoinstall.PhaseWaiting, status(t, dir).Phase)
	s.bare(t, 0)

	s.publish(t, "SN1.enc", cert, netConfig)
	code, _, errs = finish(t, s.boot(t, 0, args...))
	require.Zero(t, code, errs)
	require.Equal(t, netConfig, installed(t, dir))
	st := status(t, dir)
	require.Equal(t, autoinstall.PhaseInstalled, st.Phase)
	require.Equal(t, "tftp://192.0.2.1/SN1.enc", st.Installed.Source)
	require.True(t, st.Installed.Authenticated)
	s.bare(t, 0)

	// A configured device leaves the network alone, even when it is asked to.
	code, _, errs = finish(t, s.boot(t, 0, args...))
	require.Zero(t, code, errs)
	require.NotContains(t, errs, "fetching")
}

func TestConfigurationAppearsWhileTheDeviceWaits(t *testing.T) {
	s := newSite(t, 1)
	s.dnsmasq(t, true, "--dhcp-option-force=150,192.0.2.1")
	dir, cert := keygen(t, "SN1")
	cmd := s.inDevice(t, 0, self(t, "impatient", dir, "SN1", "eth0"))
	var errs strings.Builder
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return status(t, dir).Attempts >= 3 }, 60*time.Second, 200*time.Millisecond)
	s.publish(t, "SN1.enc", cert, netConfig)
	require.NoError(t, cmd.Wait(), "%s", &errs)
	require.Equal(t, netConfig, installed(t, dir))
	s.bare(t, 0)
}

func TestServerGoesAwayInTheMiddle(t *testing.T) {
	s := newSite(t, 1)
	options := []string{"--dhcp-option-force=66,192.0.2.1", "--dhcp-option-force=67,SN1.enc"}
	server := s.dnsmasq(t, true, options...)
	dir, cert := keygen(t, "SN1")
	big := strings.Repeat(netConfig, 8<<20/len(netConfig))
	s.publish(t, "SN1.enc", cert, big)
	cmd := s.inDevice(t, 0, self(t, "impatient", dir, "SN1", "eth0"))
	var errs strings.Builder
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	deadline := time.Now().Add(60 * time.Second)
	for sent(t, server.Process.Pid, "br0") < 1<<20 {
		require.True(t, time.Now().Before(deadline), "the transfer never began: %s", &errs)
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, server.Process.Kill())
	_ = server.Wait()
	require.NoFileExists(t, filepath.Join(dir, configFile), "the server was too fast for this test")
	require.Eventually(t, func() bool {
		st := status(t, dir)
		return strings.Contains(st.Reason, "does not answer: silence after") || strings.Contains(st.Reason, "no server named a place")
	}, 60*time.Second, 200*time.Millisecond)
	require.NoFileExists(t, filepath.Join(dir, configFile))
	s.dnsmasq(t, true, options...)
	require.NoError(t, cmd.Wait(), "%s", &errs)
	require.Equal(t, big, installed(t, dir))
}

// sent is how many octets went out of an interface in the namespace of a
// process.
func sent(t *testing.T, pid int, iface string) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if fields := strings.Fields(rest); ok && name == iface && len(fields) >= 9 {
			n, err := strconv.ParseUint(fields[8], 10, 64)
			require.NoError(t, err)
			return n
		}
	}
	return 0 // ip(8) has not entered the namespace yet
}

func TestTwoDevicesAtOnce(t *testing.T) {
	// One server, no file name in DHCP: each takes the file of its own serial
	// number.
	s := newSite(t, 2)
	s.dnsmasq(t, true, "--dhcp-option-force=66,192.0.2.1")
	var wg sync.WaitGroup
	for i, serial := range []string{"SN1", "SN2"} {
		dir, cert := keygen(t, serial)
		s.publish(t, serial+".enc", cert, "hostname "+serial+"\n")
		cmd := s.boot(t, i, "-dir", dir, "-serial", serial, "-once")
		wg.Go(func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", serial, err, out)
			}
		})
		defer func() { require.Equal(t, "hostname "+serial+"\n", installed(t, dir)) }()
	}
	wg.Wait()
}

func TestOtherTFTPServers(t *testing.T) {
	servers := map[string]func(*testing.T, *site){
		"tftpd-hpa": func(t *testing.T, s *site) {
			s.daemon(t, "in.tftpd", "-L", "-u", "root", "-a", "192.0.2.1:69", "-s", s.tftp)
		},
		"atftpd": func(t *testing.T, s *site) {
			s.daemon(t, "atftpd", "--daemon", "--no-fork", "--user", "root", "--group", "root", "--bind-address", "192.0.2.1", "--logfile", "-", s.tftp)
		},
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1)
			start(t, s)
			s.dnsmasq(t, false, "--dhcp-option-force=66,192.0.2.1")
			dir, cert := keygen(t, "SN1")
			content := strings.Repeat(netConfig, 20_000)
			s.publish(t, "SN1.enc", cert, content)
			code, _, errs := finish(t, s.boot(t, 0, "-dir", dir, "-serial", "SN1", "-once"))
			require.Zero(t, code, errs)
			require.Equal(t, content, installed(t, dir))
		})
	}
}

func TestBootOverIPv6(t *testing.T) {
	s := newSite(t, 1)
	s.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--user=root", "--pid-file=",
		"--log-facility=-", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--enable-tftp", "--tftp-root="+s.tftp,
		"--dhcp-range=fd00:1::100,fd00:1::1ff,64,2m", "--enable-ra", "--dhcp-option=option6:59,tftp://[fd00:1::1]/SN1.enc")
	dir, cert := keygen(t, "SN1")
	s.publish(t, "SN1.enc", cert, netConfig)
	code, _, errs := finish(t, s.boot(t, 0, "-dir", dir, "-serial", "SN1", "-once"))
	require.Zero(t, code, errs)
	require.Equal(t, netConfig, installed(t, dir))
	require.Equal(t, "tftp://[fd00:1::1]/SN1.enc", status(t, dir).Installed.Source)
}

func TestOldFieldsOfBOOTP(t *testing.T) {
	// siaddr and file; the server leaves options 66 and 67 away.
	s := newSite(t, 1)
	s.dnsmasq(t, true, "--dhcp-boot=boot/SN1.enc,,192.0.2.1")
	dir, cert := keygen(t, "SN1")
	require.NoError(t, os.Mkdir(filepath.Join(s.tftp, "boot"), 0o755))
	s.publish(t, "boot/SN1.enc", cert, netConfig)
	code, _, errs := finish(t, s.boot(t, 0, "-dir", dir, "-serial", "SN1", "-once"))
	require.Zero(t, code, errs)
	require.Equal(t, netConfig, installed(t, dir))
}

func TestHostileOffer(t *testing.T) {
	s := newSite(t, 1)
	s.dnsmasq(t, true, "--dhcp-option-force=66,192.0.2.1", "--dhcp-option-force=67,../../etc/passwd")
	dir, _ := keygen(t, "SN1")
	code, _, errs := finish(t, s.boot(t, 0, "-dir", dir, "-serial", "SN1", "-once"))
	require.Equal(t, 4, code, errs)
	require.Contains(t, errs, "option 67")
	require.NoFileExists(t, filepath.Join(dir, configFile))
	s.bare(t, 0)
}
