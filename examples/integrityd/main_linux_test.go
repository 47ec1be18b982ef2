package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/ext4test"
	"github.com/mooringlib/mooring/internal/peer"
)

type runner struct{ m *testing.M }

func (r runner) Run() int { return ext4test.Main(r.m) }

func TestMain(m *testing.M) {
	testscript.Main(runner{m}, map[string]func(){"integrityd": main})
}

// TestScripts drives the program as an operator does, on a real file system and
// the software TPM of the "simulator".
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/scripts/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			peer.Need(t, "swtpm")
			fs := ext4test.New(t, 24<<20)
			testscript.Run(t, testscript.Params{
				Files: []string{script},
				Setup: func(env *testscript.Env) error {
					env.Setenv("MNT", fs.Mount)
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
					"exits":   exits,
					"expand":  expand,
					"flipbit": flipBit,
					"restart": func(*testscript.TestScript, bool, []string) { fs.Restart(t) },
				},
			})
		})
	}
}

// exits runs a program and compares its exit code: exits 4 integrityd run ...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// expand replaces $WORK and $MNT in a file.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		data := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(data), 0o600))
	}
}

// flipBit changes one bit in the middle of the one file that a pattern matches.
func flipBit(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) != 1 {
		ts.Fatalf("%d files match %s", len(files), args[0])
	}
	data, err := os.ReadFile(files[0])
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(files[0], data, 0o600))
}

// service is a running "integrityd run" and what it tells its manager.
type service struct {
	cmd    *exec.Cmd
	states chan string
}

func start(t *testing.T, config string) *service {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	s := &service{cmd: exec.Command("integrityd", "run", "-config", config), states: make(chan string, 100)}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.states <- string(buf[:n])
		}
	})
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	s.cmd.Stderr = os.Stderr
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		_ = conn.Close()
		done.Wait()
	})
	return s
}

func (s *service) wait(t *testing.T, prefix string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		select {
		case got := <-s.states:
			if strings.HasPrefix(got, prefix) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("never heard %q", prefix)
		}
	}
}

func TestServiceStartsRefusesAndStops(t *testing.T) {
	peer.Need(t, "swtpm")
	fs := ext4test.New(t, 24<<20)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	data, err := json.Marshal(map[string]any{
		"tpm": "simulator", "state_dir": filepath.Join(dir, "state"), "directories": []string{filepath.Join(fs.Mount, "secrets")},
		"mode": "direct", "policy": "literal:7,11", "console": []string{filepath.Join(dir, "console1"), filepath.Join(dir, "console2")},
		"retry_min": "20ms", "retry_max": "40ms", "first_boot_enable": true,
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, data, 0o600))

	s := start(t, config)
	s.wait(t, "READY=1")
	require.FileExists(t, filepath.Join(dir, "state", "network-allowed"))
	require.NoError(t, os.WriteFile(filepath.Join(fs.Mount, "secrets", "file"), []byte("secret"), 0o600))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.wait(t, "STOPPING=1")
	require.NoError(t, s.cmd.Wait())

	fs.Restart(t)
	record, err := filepath.Glob(filepath.Join(dir, "state", "record-*"))
	require.NoError(t, err)
	require.Len(t, record, 1)
	good, err := os.ReadFile(record[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(record[0], append(bytes.Clone(good), 'x'), 0o600))
	s = start(t, config)
	for range 3 {
		s.wait(t, "STATUS=integrity event record-corrupt")
	}
	require.NoFileExists(t, filepath.Join(dir, "state", "network-allowed"))
	for _, console := range []string{"console1", "console2"} {
		text, err := os.ReadFile(filepath.Join(dir, console))
		require.NoError(t, err)
		require.GreaterOrEqual(t, strings.Count(string(text), "EMERGENCY"), 3, "each attempt writes it again")
	}
	// What is repaired by hand is taken up by the next attempt.
	require.NoError(t, os.WriteFile(record[0], good, 0o600))
	s.wait(t, "READY=1")
	require.FileExists(t, filepath.Join(fs.Mount, "secrets", "file"))
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, s.cmd.Wait())
}

func TestUnitFile(t *testing.T) {
	data, err := os.ReadFile("integrity-handler.service")
	require.NoError(t, err)
	unit := string(data)
	for _, line := range []string{"Type=notify", "NoNewPrivileges=yes", "TimeoutStartSec=infinity", "Restart=always", "RequiredBy=network-pre.target", "RestartMode=direct", "DeviceAllow=char-ttyAMA w", "SyslogIdentifier=integrity-handler"} {
		require.Contains(t, unit, "\n"+line+"\n")
	}
	require.Regexp(t, `(?m)^Before=.*\bnetwork-pre\.target\b`, unit)
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not installed: the unit was not verified by it")
		return
	}
	dir := t.TempDir()
	// The verifier looks for the program of the unit.
	program := filepath.Join(dir, "integrityd")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700))
	// Verifiers before systemd 254 complain about what they do not know.
	unit = strings.ReplaceAll(unit, "RestartMode=direct\n", "")
	path := filepath.Join(dir, "integrity-handler.service")
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/sbin/integrityd", program)), 0o600))
	out, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", path).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), "integrity-handler.service:", "no complaint about the unit")
}

func TestConfigMistakes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	for text, want := range map[string]string{
		`{`:                                      "configuration",
		`{} {}`:                                  "more after its end",
		`{"tmp": "simulator"}`:                   `unknown field "tmp"`,
		`{"state_dir": "/x"}`:                    `"tpm" is missing`,
		`{"tpm": "simulator", "state_dir": "x"}`: "must be an absolute path",
		`{"tpm": "simulator", "policy": "literal:a"}`: "not a list of PCR numbers",
		`{"tpm": "simulator", "retry_min": "soon"}`:   "invalid duration",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := readConfig(path)
		require.ErrorContains(t, err, want, text)
	}
	for text, want := range map[string]string{
		`"directories": ["/d"], "policy": "best"`:            "policy",
		`"directories": ["/d"], "policy": {"type":"signed"}`: "signed policy needs",
		`"directories": ["/d"], "wrapper": "x"`:              "wrapper",
		`"directories": ["/d"], "parent": "x"`:               "parent",
		`"directories": ["/d"], "mode": "x"`:                 "mode is direct or compat",
		`"directories": []`:                                  "0 directories",
		`"directories": ["/d", "/d/e"]`:                      "is inside of",
	} {
		require.NoError(t, os.WriteFile(path, []byte(`{"tpm": "simulator", "state_dir": "`+dir+`", `+text+`}`), 0o600))
		_, err := open(path, os.Stderr, false)
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"tpm":"simulator","state_dir":"/s","directories":["/d"],"policy":{"type":"literal","pcrs":[7]},"console":["a","b"]}`))
	f.Add([]byte(`{"tpm":"x","state_dir":"/s","policy":"literal:0,1","console":"c","retry_min":"1s"}`))
	path := filepath.Join(f.TempDir(), "config")
	f.Fuzz(func(t *testing.T, data []byte) {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		if c, err := readConfig(path); err == nil {
			require.True(t, filepath.IsAbs(c.StateDir))
		}
	})
}
