package operator_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/operator"
	"github.com/mooringlib/mooring/internal/durable"
)

// dieIn names the directory in which a process that runs TestLeftovers fetches and is killed.
const dieIn = "MOORING_OPERATOR_DIE_IN"

// TestLeftovers kills a process while it keeps a certificate. What it left goes with a later Fetch or Replace, but not
// while it may still be in use, and nothing else goes.
func TestLeftovers(t *testing.T) {
	d := newDirectory(t)
	cert := certificate(t, newKey(t))
	d.publishes(pemOf(cert))
	ctx := context.Background()
	if dir := os.Getenv(dieIn); dir != "" {
		die := durable.Writer{Before: func(step durable.Step, _ string) error {
			if step != durable.StepRename {
				return nil
			}
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			return err
		}}
		o, err := operator.New(operator.WithWriter(operator.Config{URL: d.URL, Roots: d.roots(), Dir: dir}, die))
		require.NoError(t, err)
		_, err = o.Fetch(ctx, serial)
		t.Fatalf("survived: %v", err)
	}
	for _, how := range []string{"fetch", "replace"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			killed := exec.Command(os.Args[0], "-test.run", "^TestLeftovers$")
			killed.Env = append(os.Environ(), dieIn+"="+dir)
			require.Error(t, killed.Run())
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, 1, "the killed process leaves its directory")
			long := time.Now().Add(-2 * time.Hour)
			old := []string{left[0].Name(), ".durable-" + serial + ".crt-1"}
			stay := []string{".fetch-now", ".durable-now", ".fetch-file", ".durable-dir", ".hidden", "notes", "SN7.crt"}
			require.NoError(t, os.WriteFile(filepath.Join(dir, old[1]), nil, 0o600))
			for _, name := range []string{".fetch-now", ".durable-dir"} {
				require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
			}
			for _, name := range []string{".durable-now", ".fetch-file", ".hidden", "notes", "SN7.crt"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
			}
			for _, name := range append(old, stay[2:]...) {
				require.NoError(t, os.Chtimes(filepath.Join(dir, name), long, long))
			}
			if how == "fetch" {
				_, err = d.operator(t, dir).Fetch(ctx, serial)
			} else {
				_, err = d.operator(t, dir).Replace(ctx, serial, operator.Fingerprint(cert))
			}
			require.NoError(t, err)
			var names []string
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			require.ElementsMatch(t, append(stay, serial+".crt"), names)
		})
	}
}
