package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/ext4test"
	"github.com/mooringlib/mooring/internal/peer"
)

// TestServiceSurvivesItsConfiguration has a configuration that cannot be used: the
// service goes on, with networking blocked, until it is mended.
func TestServiceSurvivesItsConfiguration(t *testing.T) {
	peer.Need(t, "swtpm")
	fs := ext4test.New(t, 24<<20)
	dir := t.TempDir()
	path, console, flag := filepath.Join(dir, "config.json"), filepath.Join(dir, "console"), filepath.Join(dir, "allowed")
	write := func(change map[string]any) {
		fields := map[string]any{
			"tpm": "simulator", "state_dir": filepath.Join(dir, "state"), "directories": []string{filepath.Join(fs.Mount, "secrets")},
			"console": console, "network_flag": flag, "retry_min": "20ms", "retry_max": "40ms", "first_boot_enable": true,
		}
		for name, v := range change {
			fields[name] = v
		}
		data, err := json.Marshal(fields)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path+".new", data, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	for _, change := range []map[string]any{
		{"spelling": 1},
		{"policy": map[string]any{"type": "signed", "file": "/p", "reference": "r", "vendor_key": filepath.Join(dir, "missing.pem")}},
		{"policy": "literal:x"},
		{"directories": 7},
	} {
		write(change)
		require.NoError(t, os.WriteFile(flag, []byte("an earlier start"), 0o600))
		require.NoError(t, os.WriteFile(console, nil, 0o600))
		var stderr strings.Builder
		err := run(t.Context(), []string{"run", "-config", path, "-once"}, nil, &stderr, &stderr)
		require.Equal(t, exitEvent, code(err, &stderr), "%v", change)
		require.Contains(t, stderr.String(), "config-invalid")
		require.NoFileExists(t, flag)
		text, err := os.ReadFile(console)
		require.NoError(t, err)
		require.Contains(t, string(text), "(config-invalid)")
	}
	require.NoError(t, os.WriteFile(flag, []byte("an earlier start"), 0o600))
	s := start(t, path)
	for range 3 {
		s.wait(t, "STATUS=integrity event config-invalid")
	}
	require.NoFileExists(t, flag)
	text, err := os.ReadFile(console)
	require.NoError(t, err)
	require.GreaterOrEqual(t, strings.Count(string(text), "EMERGENCY"), 3, "each attempt writes it again")
	write(nil)
	s.wait(t, "READY=1")
	require.FileExists(t, flag)
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, s.cmd.Wait())
}

func TestServiceEndsWhileItWaitsForAConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"state_dir": "`+t.TempDir()+`", "console": "`+path+`.console", "x": 1}`), 0o600))
	s := start(t, path)
	s.wait(t, "STATUS=integrity event config-invalid, next attempt in 5s")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, s.cmd.Wait())
}

func TestSalvage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	for text, want := range map[string]string{
		`{`:                             "/var/lib/integrity/network-allowed",
		`{"state_dir": "x"}`:            "/var/lib/integrity/network-allowed",
		`{"state_dir": "/s", "tpm": 1}`: "/s/network-allowed",
		`{"state_dir": 1, "network_flag": "/n", "more":1}`: "/n",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.Equal(t, want, salvage(path).NetworkFlag, text)
	}
	require.Equal(t, "/var/lib/integrity/network-allowed", salvage(path+".missing").NetworkFlag)
}

func TestNetworkServicesRequireTheHandler(t *testing.T) {
	data, err := os.ReadFile("network.conf")
	require.NoError(t, err)
	require.Contains(t, string(data), "\n[Unit]\nRequires=integrity-handler.service\nAfter=integrity-handler.service\n")
}
