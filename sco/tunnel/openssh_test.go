package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// opensshClient returns the arguments that every call has: nothing of the user's
// own configuration, and the host key pinned.
func opensshClient(t *testing.T, w *world, dir string) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(w.addr)
	require.NoError(t, err)
	known := filepath.Join(dir, "known_hosts")
	line := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(w.hostKey.PublicKey()))
	require.NoError(t, os.WriteFile(known, []byte(line), 0o600))
	return []string{"-F", "none", "-p", port, "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=1", "-l", "router", host}
}

func TestOpenSSHClientIntoServer(t *testing.T) {
	program := peer.Need(t, "ssh")
	dir := t.TempDir()
	w := newWorld(t, nil)
	key, path := newKeyFile(t, dir, "id_ed25519")
	w.ring.add(key.PublicKey(), w.peer)
	target := echo(t)
	base := opensshClient(t, w, dir)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, program, append(append([]string(nil), args...), base...)...).CombinedOutput()
		return string(out), err
	}

	t.Run("forwards", func(t *testing.T) {
		local, remote := freeAddr(t), freeAddr(t)
		cmd := exec.CommandContext(ctx, program, append([]string{"-N", "-i", path,
			"-L", local + ":" + target, "-R", remote + ":" + target, "-R", "0:" + target}, base...)...)
		out := newCapture()
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		defer func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
			w.watch.waitDown(t)
			t.Logf("ssh says: %s", out.String())
		}()
		s := w.watch.waitUp(t)
		require.Equal(t, w.peer, s.Peer)
		require.Contains(t, s.Version, "OpenSSH")
		eventually(t, func() bool { return out.contains("Allocated port") }, "the conductor chooses a port")
		_, port, _ := strings.Cut(out.String(), "Allocated port ")
		port, _, _ = strings.Cut(port, " ")
		for _, addr := range []string{local, remote, "127.0.0.1:" + port} {
			var c net.Conn
			eventually(t, func() (ok bool) {
				var err error
				c, err = net.Dial("tcp", addr)
				return err == nil
			}, "forward listens: "+out.String())
			exchange(t, c)
		}
	})
	t.Run("shell and command and subsystem are refused", func(t *testing.T) {
		for _, args := range [][]string{{"-i", path, "-tt"}, {"-i", path, "-T"}, {"-i", path, "-s"}} {
			out, err := exec.CommandContext(ctx, program, append(append(append([]string(nil), args...), base...), "sftp")...).CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "only TCP forwarding is possible here")
			w.watch.waitUp(t)
			w.watch.waitDown(t)
		}
	})
	t.Run("forwards outside the policy are refused", func(t *testing.T) {
		out, err := run("-N", "-i", path, "-R", "0.0.0.0:0:"+target)
		require.Error(t, err)
		require.Contains(t, out, "remote port forwarding failed")
	})
	t.Run("another key is refused", func(t *testing.T) {
		_, other := newKeyFile(t, dir, "other")
		out, err := run("-N", "-i", other)
		require.Error(t, err)
		require.Contains(t, out, "Permission denied (publickey)")
	})
	t.Run("identity is of the key that signs, not of one that was asked about", func(t *testing.T) {
		for len(w.watch.up) > 0 {
			<-w.watch.up
		}
		// The first identity is a public key only: OpenSSH learns that it would
		// be accepted, finds no private key, and goes on to the second.
		victim := newKey(t)
		w.ring.add(victim.PublicKey(), tunnel.Peer{AssetID: "victim"})
		public := filepath.Join(dir, "victim.pub")
		require.NoError(t, os.WriteFile(public, ssh.MarshalAuthorizedKey(victim.PublicKey()), 0o600))
		cmd := exec.CommandContext(ctx, program, append([]string{"-N", "-i", public, "-i", path}, base...)...)
		require.NoError(t, cmd.Start())
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		require.Equal(t, w.peer, w.watch.waitUp(t).Peer)
	})
	t.Run("initializer leaves it alone", func(t *testing.T) {
		in := &initializer{config: []byte("x"), outcome: make(chan outcome, 1)}
		w := newWorld(t, func(cfg *tunnel.ServerConfig) { cfg.Initializer = in })
		w.ring.add(key.PublicKey(), w.peer)
		local := freeAddr(t)
		cmd := exec.CommandContext(ctx, program, append([]string{"-N", "-i", path, "-L", local + ":" + target}, opensshClient(t, w, dir)...)...)
		require.NoError(t, cmd.Start())
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		w.watch.waitUp(t)
		var c net.Conn
		eventually(t, func() (ok bool) {
			var err error
			c, err = net.Dial("tcp", local)
			return err == nil
		}, "forward listens")
		exchange(t, c)
		require.Empty(t, in.outcome)
	})
}

// startSSHD runs the real server for the user that runs the tests.
func startSSHD(t *testing.T, hostKeyFile string, router ssh.PublicKey) (addr, login string) {
	t.Helper()
	program := peer.Need(t, "sshd")
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	me, err := user.Current()
	require.NoError(t, err)
	if me.Uid == "0" {
		// sshd separates privileges in this folder, which the system's service
		// makes when it starts.
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	authorized := filepath.Join(dir, "authorized_keys")
	require.NoError(t, os.WriteFile(authorized, ssh.MarshalAuthorizedKey(router), 0o600))
	addr = freeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	config := filepath.Join(dir, "sshd_config")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `Port %s
ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
GatewayPorts clientspecified
LogLevel VERBOSE
`, port, host, hostKeyFile, authorized), 0o600))
	out := newCapture()
	cmd := exec.Command(program, "-D", "-e", "-f", config)
	cmd.Stderr = out
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
		t.Logf("sshd says: %s", out.String())
	})
	eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "sshd answers: "+out.String())
	return addr, me.Username
}

func TestClientIntoOpenSSHServer(t *testing.T) {
	dir := t.TempDir()
	hostKey, hostKeyFile := newKeyFile(t, dir, "host")
	router := newKey(t)
	addr, login := startSSHD(t, hostKeyFile, router.PublicKey())
	target := echo(t)
	local, remote := freeAddr(t), freeAddr(t)
	watch := newWatcher()
	c, err := tunnel.NewClient(tunnel.ClientConfig{
		Addresses: []string{addr}, HostKeys: []ssh.PublicKey{hostKey.PublicKey()}, Signer: router, User: login,
		Local: []tunnel.Forward{{Listen: local, Target: target}}, Remote: []tunnel.Forward{{Listen: remote, Target: target}},
		KeepAlive: 500 * time.Millisecond, Observer: watch, Logger: testLogger(t),
	})
	require.NoError(t, err)
	stop := background(t, c.Run)
	s := watch.waitUp(t)
	require.Contains(t, s.Version, "OpenSSH")

	exchange(t, dialTCP(t, local))
	var conn net.Conn
	eventually(t, func() (ok bool) {
		conn, err = net.Dial("tcp", remote)
		return err == nil
	}, "sshd forwards to the router")
	exchange(t, conn)
	conn, err = c.Dial(t.Context(), target)
	require.NoError(t, err)
	exchange(t, conn)
	if err := stop(); !errors.Is(err, context.Canceled) {
		require.NoError(t, err)
	}
	watch.waitDown(t)
}
