//go:build unix

package mooring_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

// scriptTimeout bounds one block of the README, compilation included.
const scriptTimeout = 5 * time.Minute

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// blocks returns the fenced blocks of a file in one language.
func blocks(t *testing.T, file, language string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var all []string
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	require.NotEmpty(t, all, "%s has no block in %s", file, language)
	return all
}

// TestReadmeExampleCompiles builds the example as a product would: in a module
// of its own, without cgo.
func TestReadmeExampleCompiles(t *testing.T) {
	root := peer.ModuleRoot(t)
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	requires := string(mod)[strings.Index(string(mod), "require"):]
	for _, code := range blocks(t, "README.md", "go") {
		dir := t.TempDir()
		write := func(name, text string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
		write("go.mod", fmt.Sprintf("module example\n\ngo 1.26\n\nrequire %s v0.0.0\n\nreplace %s => %s\n\n%s", module, module, root, requires))
		write("go.sum", string(sum))
		write("main.go", code)
		cmd := exec.Command("go", "vet", "-mod=mod", "./...")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// TestReadmeCommands runs what the README tells its reader to run.
func TestReadmeCommands(t *testing.T) {
	peer.Need(t, "swtpm")
	for i, script := range blocks(t, "README.md", "sh") {
		name := fmt.Sprintf("block %d", i+1)
		first, _, _ := strings.Cut(script, "\n")
		switch strings.Fields(first)[0] {
		case "make":
			t.Run(name, func(t *testing.T) { runMake(t, script) })
		default:
			t.Run(name, func(t *testing.T) { runScript(t, script) })
		}
	}
}

// runMake runs make demo for real. make test would start itself again, so of the
// other goals it is only seen that they exist.
func runMake(t *testing.T, script string) {
	for line := range strings.Lines(script) {
		command, _, _ := strings.Cut(line, "#")
		args := strings.Fields(command)
		require.Equal(t, "make", args[0])
		if args[1] != "demo" {
			args = append(args, "--dry-run")
		}
		cmd := exec.Command(args[0], args[1:]...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", strings.TrimSpace(line), out)
	}
}

var port = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// runScript runs a block with every port in it exchanged for a free one.
func runScript(t *testing.T, script string) {
	free := map[string]string{}
	script = port.ReplaceAllStringFunc(script, func(address string) string {
		if free[address] == "" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			free[address] = l.Addr().String()
			require.NoError(t, l.Close())
		}
		return free[address]
	})
	tmp := t.TempDir()
	// What the block leaves running is in its process group, and ends with it.
	log, err := os.Create(filepath.Join(tmp, "log"))
	require.NoError(t, err)
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "XDG_CACHE_HOME="+filepath.Join(tmp, "cache"), "GOCACHE="+goCache(t))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	out, readErr := os.ReadFile(log.Name())
	require.NoError(t, readErr)
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}

func goCache(t *testing.T) string {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}
