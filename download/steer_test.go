package download_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/internal/durable"
)

// Paused time does not count, even when nobody is there while it passes.
func TestPausedTimeWithoutAProcessDoesNotCount(t *testing.T) {
	for name, reason := range map[string]string{"operator": "by the operator", "disk": "disk full: no room"} {
		t.Run(name, func(t *testing.T) {
			simulate(t, 8<<20, func(t *testing.T, f *fixture) {
				k := newFake(t, f)
				k.rate = 64 << 10
				cfg := f.product(t, k.source(download.KindArtifactory))
				out := filepath.Join(t.TempDir(), "i")
				store := download.NewStore(cfg.StateDir)
				ctx, kill := context.WithTimeout(t.Context(), 5*time.Second)
				defer kill()
				_, err := newDownloader(t, cfg).Download(ctx, download.Request{Version: version, Out: out})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				st, err := store.Show(version)
				require.NoError(t, err)
				deadline := st.Deadline
				require.NoError(t, store.Pause(version, reason))

				time.Sleep(24 * time.Hour) // far behind the deadline
				if name == "operator" {
					running, err := store.Resume(version)
					require.NoError(t, err)
					require.False(t, running)
					_, err = store.Resume(version)
					require.NoError(t, err, "a second one gives nothing more")
				}
				st, err = get(t, cfg, out)
				require.NoError(t, err)
				require.Equal(t, deadline.Add(24*time.Hour), st.Deadline)
				f.requireImage(t, out)
			})
		})
	}
}

func TestAFullStateDirectoryPauses(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		full := true
		cfg := f.product(t, k.source(download.KindArtifactory)).WithWriter(durable.Writer{Before: func(step durable.Step, path string) error {
			if full && step == durable.StepWrite && strings.HasSuffix(path, ".json") {
				return &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
			}
			return nil
		}})
		out := filepath.Join(t.TempDir(), "i")
		st, err := get(t, cfg, out)
		var space *download.SpaceError
		require.ErrorAs(t, err, &space)
		require.Equal(t, download.StatePaused, st.State)
		full = false
		_, err = get(t, cfg, out)
		require.NoError(t, err)
		f.requireImage(t, out)
	})
}

// A status that is damaged neither hides other downloads nor keeps its own from
// being steered and from going on.
func TestADamagedStatus(t *testing.T) {
	simulate(t, 1<<20, func(t *testing.T, f *fixture) {
		k := newFake(t, f)
		cfg := f.product(t, k.source(download.KindArtifactory))
		out := filepath.Join(t.TempDir(), "i")
		_, err := get(t, cfg, out)
		require.NoError(t, err)
		store := download.NewStore(cfg.StateDir)
		bad := filepath.Join(cfg.StateDir, "9.9", "status.json")
		require.NoError(t, os.MkdirAll(filepath.Dir(bad), 0o755))
		require.NoError(t, os.WriteFile(bad, []byte("{"), 0o600))

		_, err = store.Show("9.9")
		require.ErrorIs(t, err, download.ErrDamagedStatus)
		list, err := store.List()
		require.ErrorIs(t, err, download.ErrDamagedStatus)
		require.Len(t, list, 1)
		require.Equal(t, version, list[0].Version)
		require.NoError(t, store.Pause("9.9", "by the operator"))
		running, err := store.Resume("9.9")
		require.NoError(t, err)
		require.False(t, running)
	})
}
