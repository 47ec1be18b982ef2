package main

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

// TestInitLeavesForeignDirectoriesAlone: neither their content nor their mode
// changes.
func TestInitLeavesForeignDirectoriesAlone(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode fs.FileMode
		file string
		want string
	}{
		{"with a file", 0o755, "somebody's", "not empty"},
		{"for all, as /tmp is", 0o777 | fs.ModeSticky, "", "others may write"},
		{"for a group", 0o770, "", "others may write"},
		{"readable by others", 0o755, "", ""},
		{"after a cut", 0o700, ".durable-" + fileBegun + "-1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.Chmod(dir, tc.mode))
			if tc.file != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, tc.file), nil, 0o600))
			}
			before, err := os.Stat(dir)
			require.NoError(t, err)
			s := &site{t: t, dir: dir}
			_, err = s.call("init", "-host", "192.0.2.1")
			info, serr := os.Stat(dir)
			require.NoError(t, serr)
			require.Equal(t, before.Mode(), info.Mode())
			entries, rerr := os.ReadDir(dir)
			require.NoError(t, rerr)
			if tc.want == "" {
				require.NoError(t, err)
				require.NoFileExists(t, filepath.Join(dir, tc.file+"x"))
				for _, e := range entries {
					require.False(t, strings.HasPrefix(e.Name(), ".durable-"), e.Name())
				}
				return
			}
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, "new directory")
			for _, e := range entries {
				require.Equal(t, tc.file, e.Name())
			}
		})
	}
}

// TestHostKeyIsThatOfTheServer: a key that comes into the file while the server
// runs is not what routers must pin.
func TestHostKeyIsThatOfTheServer(t *testing.T) {
	s := newSite(t)
	running, err := readHostKey(s.dir)
	require.NoError(t, err)
	set := &settings{dir: s.dir}
	set.setSSH(930, running.PublicKey())
	for _, change := range []func(){
		func() {},
		func() {
			other, err := newHostKey()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, fileHostKey), append(other, '\n'), 0o600))
		},
		func() { require.NoError(t, os.Remove(filepath.Join(s.dir, fileHostKey))) },
	} {
		change()
		got, err := set.get(t.Context())
		require.NoError(t, err)
		require.Equal(t, []ssh.PublicKey{running.PublicKey()}, got.SSHHostKeys)
		require.Equal(t, uint16(930), got.SSHPort)
	}
}

// TestAllMissingFilesAreNamed in one error.
func TestAllMissingFilesAreNamed(t *testing.T) {
	s := newSite(t)
	s.must("router", "add", "-name", "r", "-mode", "weak", "-node", "node0", "-asset-id", "A")
	for _, name := range []string{fileCert, fileKey, fileCA} {
		require.NoError(t, os.Remove(filepath.Join(s.dir, name)))
	}
	_, err := s.call("token", "-router", "r", "-conductor", "192.0.2.1:933")
	for _, want := range []string{"ca-certificate is missing", "public-certificate is missing", "the key of public-certificate is missing"} {
		require.ErrorContains(t, err, want)
	}
	_, err = s.call("token", "-router", "r")
	require.ErrorContains(t, err, "public-certificate is missing")
	_, err = s.call("serve", "-onboarding", "127.0.0.1:0", "-ssh", "127.0.0.1:0")
	for _, want := range []string{fileCert, fileKey, fileCA} {
		require.ErrorContains(t, err, want)
	}
}

func TestServeWarnsOfItsDefaults(t *testing.T) {
	logged := func(dial, listen bool) string {
		var b bytes.Buffer
		warnDefaults(context.Background(), slog.New(slog.NewTextHandler(&b, nil)), dial, listen)
		return b.String()
	}
	require.Empty(t, logged(false, false))
	for _, out := range []string{logged(true, true), logged(true, false)} {
		require.Equal(t, 1, strings.Count(out, "\n"))
		require.Contains(t, out, "level=WARN")
		require.Contains(t, out, "-allow-dial=")
	}
	require.Contains(t, logged(true, true), "-allow-listen=")
	require.NotContains(t, logged(true, false), "-allow-listen=")
}

// TestLegacySlots: no source can take all of them.
func TestLegacySlots(t *testing.T) {
	g := &legacyGate{}
	from := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	var leave []func()
	for range legacyPerSource {
		l, ok := g.enter(from("2001:db8::1"))
		require.True(t, ok)
		leave = append(leave, l)
	}
	_, ok := g.enter(from("2001:db8::ffff"))
	require.False(t, ok, "the same /64")
	l, ok := g.enter(from("2001:db8:0:1::1"))
	require.True(t, ok)
	leave = append(leave, l)
	for i := 0; len(leave) < legacyConnections; i++ {
		l, ok := g.enter(from(net.IPv4(192, 0, 2, byte(i)).String()))
		require.True(t, ok)
		leave = append(leave, l)
	}
	_, ok = g.enter(from("198.51.100.1"))
	require.False(t, ok, "all are taken")
	for _, l := range leave {
		l()
	}
	require.Empty(t, g.guests)
	require.Zero(t, g.total)
}

func TestLegacyLogIsThrottled(t *testing.T) {
	g := &legacyGate{}
	now := time.Now()
	_, ok := g.logDue(now)
	require.True(t, ok)
	for range 5 {
		_, ok = g.logDue(now.Add(legacyLog / 2))
		require.False(t, ok)
	}
	n, ok := g.logDue(now.Add(legacyLog))
	require.True(t, ok)
	require.Equal(t, 5, n)
	_, ok = g.logDue(now.Add(-time.Hour))
	require.True(t, ok, "a clock that was set back does not silence the log")
}

func TestLegacyPause(t *testing.T) {
	require.Equal(t, time.Second, legacyPause(time.Millisecond))
	require.Equal(t, 5*time.Second, legacyPause(100*time.Millisecond))
	require.Equal(t, time.Minute, legacyPause(time.Hour))
}

// TestLateRecordsOfTunnels: the newest connection stays, and only the pinned key's
// count.
func TestLateRecordsOfTunnels(t *testing.T) {
	s := newSite(t)
	s.start()
	s.must("router", "add", "-name", "r", "-mode", "psk-only", "-node", "node0", "-asset-id", "A")
	newDevice(t, "A").mustOnboard(s.token("r"))
	s.serve.stop(t)
	log := slog.New(slog.DiscardHandler)
	st, err := open(t.Context(), s.dir, "conductor", log)
	require.NoError(t, err)
	defer st.Close()
	l := &links{registry: st.registry, log: log}
	n, _ := s.node("r")
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(n.Status.SSHKey))
	require.NoError(t, err)
	now := time.Now()
	session := func(id string, since time.Time) tunnel.Session {
		return tunnel.Session{ID: id, Peer: tunnel.Peer{Router: "r", Node: "node0", AssetID: "A"}, RemoteAddr: id, Since: since, Fingerprint: ssh.FingerprintSHA256(key)}
	}
	stranger := session("of another key", now)
	stranger.Fingerprint = "SHA256:x"
	l.Connected(t.Context(), stranger)
	n, _ = s.node("r")
	require.False(t, n.Status.Link.Up)
	newer, older := session("newer", now), session("older", now.Add(-time.Second))
	l.Connected(t.Context(), newer)
	l.Connected(t.Context(), older)
	n, _ = s.node("r")
	require.Equal(t, "newer", n.Status.Link.Remote)
	l.Disconnected(t.Context(), older, io.EOF)
	n, _ = s.node("r")
	require.True(t, n.Status.Link.Up)
	l.Disconnected(t.Context(), newer, io.EOF)
	n, _ = s.node("r")
	require.False(t, n.Status.Link.Up)
}

// TestRootsAddedAtTheSameTime are all there in the end.
func TestRootsAddedAtTheSameTime(t *testing.T) {
	s := newSite(t)
	var all sync.WaitGroup
	const n = 8
	for range n {
		file := newManufacturer(t).roots()
		all.Go(func() {
			_, err := s.call("devid", "add", "-roots", file)
			assert.NoError(t, err)
		})
	}
	all.Wait()
	roots, err := readCertificates(filepath.Join(s.dir, fileRoots))
	require.NoError(t, err)
	require.Len(t, roots, n)
}
