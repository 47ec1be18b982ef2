package crl_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
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
