package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/dhcp"
)

// roleEnv makes the test binary run as another program: the real one, or the
// library with a schedule that a test can wait for.
const roleEnv = "MOORING_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "autoinstalld":
		main()
		return
	case "impatient":
		if err := impatient(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testscript.Main(m, map[string]func(){"autoinstalld": main})
}

// impatient is "autoinstalld run" with an attempt every second.
func impatient(ctx context.Context, dir, serial, iface string) error {
	p, err := loadProfile(dir, serial)
	if err != nil {
		return err
	}
	cfg, closer, err := config(dir, p, policy{encryptedOnly: true})
	if err != nil {
		return err
	}
	defer closer.Close()
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg.Schedule = autoinstall.Schedule{Early: time.Second}
	fetch := autoinstall.FetchConfig{}
	fetch.TFTP.Resend, fetch.TFTP.Tries = 300*time.Millisecond, 4
	if cfg.Fetcher, err = autoinstall.NewFetcher(fetch); err != nil {
		return err
	}
	client, err := dhcp.New(dhcp.Config{Interface: iface, Serial: serial, Timeout: 30 * time.Second, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	cfg.Discoverer = client
	device, err := autoinstall.New(cfg)
	if err != nil {
		return err
	}
	return device.Run(ctx)
}

// self is the command line of the program, to be run as a process of its own.
func self(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}

// invoke runs the program inside the test and returns its exit status and
// output.
func invoke(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	err := run(t.Context(), args, strings.NewReader(""), &out, &errs)
	status = exitStatus(err, &errs)
	return status, out.String(), errs.String()
}

func finish(t testing.TB, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", cmd.Args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// keygen makes a device in a folder of its own.
func keygen(t testing.TB, serial string, args ...string) (dir, cert string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "device")
	status, out, errs := invoke(t, append([]string{"keygen", "-dir", dir, "-serial", serial, "-json"}, args...)...)
	require.Zero(t, status, errs)
	var key map[string]string
	require.NoError(t, json.Unmarshal([]byte(out), &key))
	return dir, key["certificate"]
}

func status(t testing.TB, dir string) autoinstall.Status {
	t.Helper()
	code, out, errs := invoke(t, "status", "-dir", dir, "-json")
	require.Zero(t, code, errs)
	var st autoinstall.Status
	require.NoError(t, json.Unmarshal([]byte(out), &st))
	return st
}

func installed(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	require.NoError(t, err)
	return string(b)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}
