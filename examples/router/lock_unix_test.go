//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOnboardingIsAlone: a second one waits a moment and then says so, and what
// the first one needs stays.
func TestOnboardingIsAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "router")
	unlock, err := lockOnboarding(t.Context(), dir)
	require.NoError(t, err)
	_, stderr, code := call(newToken(t, "A"), "onboard", "-dir", dir, "-token", "-", "-conductor", "127.0.0.1:1")
	require.Equal(t, 1, code)
	require.Equal(t, 1, strings.Count(stderr, "\n"))
	require.Contains(t, stderr, "another \"router onboard\"")
	require.NoFileExists(t, filepath.Join(dir, "ssh_key"))
	unlock()
	require.NoDirExists(t, dir, "nothing has come into it")
	_, stderr, _ = call(newToken(t, "A"), "onboard", "-dir", dir, "-token", "-", "-conductor", "127.0.0.1:1")
	require.Contains(t, stderr, "127.0.0.1:1")
	require.DirExists(t, dir, "the key is kept")
}

// TestOnboardingInTurns has many at the same time make and take away the
// directory: none fails but by the lock, and no two are in it together.
func TestOnboardingInTurns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "router")
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				unlock, err := lockOnboarding(t.Context(), dir)
				for err != nil && strings.Contains(err.Error(), "another") {
					unlock, err = lockOnboarding(t.Context(), dir)
				}
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, int32(1), inside.Add(1))
				inside.Add(-1)
				unlock()
			}
		})
	}
	all.Wait()
}

// TestWhoAsksForTheLockIsNotSeen by others who ask.
func TestWhoAsksForTheLockIsNotSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), fileLock)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	other, err := lock(f, unix.LOCK_SH)
	require.NoError(t, err)
	locked, err := isLocked(path)
	require.NoError(t, err)
	require.False(t, locked)
	other()
	unlock, err := lockFile(path)
	require.NoError(t, err)
	locked, err = isLocked(path)
	require.NoError(t, err)
	require.True(t, locked)
	unlock()
}
