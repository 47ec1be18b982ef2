package serial_test

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/internal/serial"
)

func TestCheck(t *testing.T) {
	for _, s := range []string{"SN19842256", "17894321", "a", "2f9c1d5e-5b0c-4a53-9d5c-0d2f6c6d9f11", "AA:BB:CC:00:11:22", "rev.B_7", strings.Repeat("x", 64)} {
		require.NoError(t, serial.Check(s), s)
	}
	for _, s := range []string{"", ".", "..", "a..b", "../x", "a/b", `a\b`, "-x", "x-", ".x", "x.", "a b", "a\x00b", "a\n", "ä", "%2e", "a?b", strings.Repeat("x", 65)} {
		require.ErrorIs(t, serial.Check(s), serial.ErrSyntax, s)
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"SN1", "../SN1", "a..b", "a:b", "%41", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if serial.Check(s) != nil {
			return
		}
		if filepath.Base(s) != s || filepath.Clean(s) != s || url.PathEscape(s) != s && !strings.Contains(s, ":") || len(s) > serial.MaxLen {
			t.Fatalf("%q passed", s)
		}
	})
}
