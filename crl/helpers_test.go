package crl_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl"
)

type pkixExtension = pkix.Extension

func readerOf(b []byte) io.Reader { return bytes.NewReader(b) }

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", data, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// counter counts events.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) RecordEvent(context.Context, mooring.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func asRevoked(err error, target **crl.RevokedError) bool { return errors.As(err, target) }

// fastDir is a directory in memory where there is one, for tests that make many
// directories and do not test that what is in them survives.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "crl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
