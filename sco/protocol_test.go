package sco_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryAttackHasItsTest holds PROTOCOL.md to its word: the tests that its
// table of attacks names exist.
func TestEveryAttackHasItsTest(t *testing.T) {
	doc, err := os.ReadFile("PROTOCOL.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(doc), "## 9. Attacks")
	require.True(t, ok)
	var code strings.Builder
	for _, pattern := range []string{"*_test.go", "tpmsigner/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			code.Write(b)
		}
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(table, -1)
	require.Greater(t, len(names), 20)
	for _, n := range names {
		require.Contains(t, code.String(), "func "+n[1]+"(t *testing.T)")
	}
}
