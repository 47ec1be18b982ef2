package integrity_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
)

func TestEmergencyGoesEverywhere(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "kmsg")
	require.NoError(t, os.WriteFile(log, nil, 0o600))
	consoles := []string{filepath.Join(dir, "tty1"), filepath.Join(dir, "no-such-directory", "tty"), filepath.Join(dir, "tty2")}
	sink := integrity.Consoles{KernelLog: log, Paths: consoles}
	text := integrity.EmergencyText(cause.New(cause.TPMCleared, nil))
	require.Error(t, sink.Emergency(t.Context(), text), "one console is broken")
	for _, c := range []string{consoles[0], consoles[2]} {
		got, err := os.ReadFile(c)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	got, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, strings.Count(text, "\n"), strings.Count(string(got), "\n"))
	for line := range strings.Lines(string(got)) {
		require.True(t, strings.HasPrefix(line, "<0>integrity-handler: "), "emergency level on each line: %q", line)
	}
}

func TestEmergencyIsBounded(t *testing.T) {
	console := filepath.Join(t.TempDir(), "tty")
	sink := integrity.Consoles{KernelLog: "-", Paths: []string{console}}
	require.NoError(t, sink.Emergency(t.Context(), strings.Repeat("x", 1<<20)))
	info, err := os.Stat(console)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(8<<10))
}

func TestNotifyReachesTheServiceManager(t *testing.T) {
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, integrity.SystemdNotify(path)("READY=1"))
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "READY=1", string(buf[:n]))
	require.NoError(t, integrity.SystemdNotify("")("READY=1"))
	require.Error(t, integrity.SystemdNotify(path+"-none")("READY=1"))
}
