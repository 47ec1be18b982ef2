package secmem_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

func TestMemoryIsLockedAndNotDumpable(t *testing.T) {
	b, err := secmem.New(32)
	require.NoError(t, err)
	defer b.Destroy()
	copy(b.Bytes(), "secret")
	flags := vmFlags(t, uintptr(unsafe.Pointer(&b.Bytes()[0])))
	require.Contains(t, flags, " lo ", "locked")
	require.Contains(t, flags, " dd ", "not in core dumps")
	require.Contains(t, flags, " wf ", "wiped on fork")
}

func vmFlags(t *testing.T, address uintptr) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	head := regexp.MustCompile(`(?m)^([0-9a-f]+)-([0-9a-f]+) `)
	in := false
	for line := range strings.Lines(string(maps)) {
		if m := head.FindStringSubmatch(line); m != nil {
			var from, to uint64
			_, err := fmt.Sscanf(m[1]+" "+m[2], "%x %x", &from, &to)
			require.NoError(t, err)
			in = uint64(address) >= from && uint64(address) < to
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && in {
			return " " + strings.TrimSpace(flags) + " "
		}
	}
	t.Fatal("mapping not found")
	return ""
}

func TestDestroyedBufferIsGone(t *testing.T) {
	b, err := secmem.New(4096)
	require.NoError(t, err)
	require.Len(t, b.Bytes(), 4096)
	b.Destroy()
	b.Destroy()
	require.Nil(t, b.Bytes())
}

func TestBufferNeverPrintsItsContent(t *testing.T) {
	b, err := secmem.New(6)
	require.NoError(t, err)
	defer b.Destroy()
	copy(b.Bytes(), "secret")
	js, err := json.Marshal(b)
	require.NoError(t, err)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", b)
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%+v %#v %s", b, b, b), string(js), log.String()} {
		require.NotContains(t, s, "secret")
		require.NotContains(t, s, "115 101 99")
	}
}

func TestSizeIsBounded(t *testing.T) {
	for _, n := range []int{-1, 0, secmem.MaxSize + 1} {
		_, err := secmem.New(n)
		require.Error(t, err)
	}
}
