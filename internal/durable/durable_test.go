package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

func TestStopAtEveryStepLeavesOldOrNew(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "state")
			require.NoError(t, durable.Writer{}.WriteFile(path, []byte("old content"), 0o600))
			return path
		},
		func(path string, w durable.Writer) error {
			return w.WriteFile(path, []byte("new content"), 0o640)
		},
		func(t *testing.T, path string, done bool) {
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			if done {
				require.Equal(t, "new content", string(got))
			}
			require.Contains(t, []string{"old content", "new content"}, string(got))

			require.NoError(t, durable.Writer{}.Sweep(filepath.Dir(path)))
			entries, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, entries, 1, "Sweep leaves only the file itself")
		})
}

func TestErrorAtEveryStepCleansUp(t *testing.T) {
	injected := errors.New("injected")
	for _, step := range []durable.Step{durable.StepCreate, durable.StepWrite, durable.StepSyncFile, durable.StepRename} {
		t.Run(string(step), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state")
			require.NoError(t, durable.Writer{}.WriteFile(path, []byte("old"), 0o600))
			w := durable.Writer{Before: func(s durable.Step, p string) error {
				if s == step {
					require.Equal(t, path, p)
					return injected
				}
				return nil
			}}
			require.ErrorIs(t, w.WriteFile(path, []byte("new"), 0o600), injected)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "old", string(got))
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1)
		})
	}
}

func TestPermissionsAreExact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, perm := range []fs.FileMode{0o600, 0o666, 0o400} {
		require.NoError(t, durable.Writer{}.WriteFile(path, nil, perm))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, perm, info.Mode().Perm())
	}
}

func TestRemoveAndMkdirAllAreIdempotent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var w durable.Writer
	require.NoError(t, w.MkdirAll(dir, 0o700))
	require.NoError(t, w.MkdirAll(dir, 0o700))
	path := filepath.Join(dir, "f")
	require.NoError(t, w.WriteFile(path, []byte("x"), 0o600))
	require.Error(t, w.MkdirAll(path, 0o700))
	require.NoError(t, w.Rename(path, path+"2"))
	require.NoError(t, w.Remove(path+"2"))
	require.NoError(t, w.Remove(path+"2"))
}

func TestCommitOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := durable.Writer{}.Create(path, 0o600)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("world"), 6)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("hello "), 0)
	require.NoError(t, err)
	require.NoError(t, f.Commit())
	require.Error(t, f.Commit())
	f.Abort()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "hello world", string(got))

	g, err := durable.Writer{}.Create(path, 0o600)
	require.NoError(t, err)
	g.Abort()
	require.Error(t, g.Commit())
	require.FileExists(t, path)
}

func TestCommitNewNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	var errs []error
	// Both are begun before either is there, as two processes would.
	a, err := durable.Writer{}.Create(path, 0o600)
	require.NoError(t, err)
	b, err := durable.Writer{}.Create(path, 0o600)
	require.NoError(t, err)
	for i, f := range []*durable.File{a, b} {
		_, err := f.Write([]byte{'a' + byte(i)})
		require.NoError(t, err)
		errs = append(errs, f.CommitNew())
		require.Error(t, f.CommitNew())
	}
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], fs.ErrExist)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "a", string(got))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestCommitNewStoppedAtEveryStep(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) string { return filepath.Join(t.TempDir(), "key") },
		func(path string, w durable.Writer) error {
			f, err := w.Create(path, 0o600)
			if err != nil {
				return err
			}
			if _, err := f.Write([]byte("whole content")); err != nil {
				return err
			}
			return f.CommitNew()
		},
		func(t *testing.T, path string, done bool) {
			got, err := os.ReadFile(path)
			if done || err == nil {
				require.NoError(t, err)
				require.Equal(t, "whole content", string(got))
			} else {
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
			require.NoError(t, durable.Writer{}.Sweep(filepath.Dir(path), "key"))
			left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
}

func TestSweepOfNamedFilesLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	var w durable.Writer
	temp := func(name string) *durable.File {
		f, err := w.Create(filepath.Join(dir, name), 0o600)
		require.NoError(t, err)
		return f
	}
	other, longer, mine := temp("status.json"), temp("key-old"), temp("key")
	require.NoError(t, w.Sweep(dir, "key", "never-written"))
	require.NoError(t, other.Commit())
	require.NoError(t, longer.Commit())
	require.ErrorIs(t, mine.Commit(), fs.ErrNotExist)
	temp("x")
	require.NoError(t, w.Sweep(dir))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}
