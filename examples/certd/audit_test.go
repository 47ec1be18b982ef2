package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
)

// TestAuditRotation writes as two processes do, through two sinks, while the file
// is turned over.
func TestAuditRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var stderr bytes.Buffer
	const each = 40
	event := func(n int) mooring.Event {
		return mooring.Event{Type: "test", Description: fmt.Sprintf("event %04d", n), Detail: []byte("{}")}
	}
	// The limit is met once, in the middle.
	line, err := json.Marshal(event(0))
	require.NoError(t, err)
	limit := int64(each * (len(line) + 1))
	var writers sync.WaitGroup
	for w := range 2 {
		sink := &auditFile{path: path, limit: limit, stderr: &stderr}
		writers.Go(func() {
			for n := range each {
				sink.RecordEvent(t.Context(), event(w*each+n))
			}
		})
	}
	writers.Wait()
	require.Empty(t, stderr.String())
	var all string
	for _, name := range []string{path + ".1", path} {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		all += string(data)
	}
	for n := range 2 * each {
		require.Equal(t, 1, strings.Count(all, fmt.Sprintf("event %04d", n)), "event %d", n)
	}
}
