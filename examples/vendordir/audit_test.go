package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall/directory"
)

func TestStrangersFillNoDisk(t *testing.T) {
	dir := t.TempDir()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	audit, err := openAudit(dir, logger)
	require.NoError(t, err)
	audit.RecordEvent(t.Context(), mooring.Event{Type: "directory.publish", Permitted: true, Description: "first"})
	text := strings.Repeat("x", 10_000)
	stranger := mooring.Event{Type: directory.EventUnauthorized, Description: text}
	for range 200 {
		audit.RecordEvent(t.Context(), stranger)
	}
	require.NoError(t, audit.Close())
	// The bound holds across a restart too.
	audit, err = openAudit(dir, logger)
	require.NoError(t, err)
	for range 150 {
		audit.RecordEvent(t.Context(), stranger)
	}
	audit.RecordEvent(t.Context(), mooring.Event{Type: "directory.replace", Permitted: true, Description: "last"})
	require.NoError(t, audit.Close())

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		for _, line := range lines {
			require.True(t, json.Valid(line), "whole lines only")
		}
		if e.Name() == auditFile {
			require.Len(t, lines, 2, "strangers are not in it, and nothing of it is lost")
			continue
		}
		require.LessOrEqual(t, len(b), maxStrangers, e.Name())
		require.NotContains(t, string(b), "directory.publish")
	}
}
