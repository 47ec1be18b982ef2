package integrity_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mooringlib/mooring/integrity"
)

// TestStoppedTerminalsDelayNoOther has more terminals that take nothing than
// could be waited for one after the other.
func TestStoppedTerminalsDelayNoOther(t *testing.T) {
	dir := t.TempDir()
	var consoles []string
	for _, name := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"} {
		path := filepath.Join(dir, name)
		require.NoError(t, unix.Mkfifo(path, 0o600))
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = f.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the pipe is full")
		consoles = append(consoles, path)
	}
	healthy := filepath.Join(dir, "healthy")
	begin := time.Now()
	err := integrity.Consoles{KernelLog: "-", Paths: append(consoles, healthy)}.Emergency(t.Context(), "text\n")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, time.Since(begin), 12*time.Second, "one after the other they take 18 s")
	got, err := os.ReadFile(healthy)
	require.NoError(t, err)
	require.Equal(t, "text\n", string(got))
}

func TestMissingDeviceDoesNotBecomeAFile(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "m")
	if err != nil {
		t.Skip("no place below /dev to write to:", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "ttyAMA0")
	require.ErrorIs(t, integrity.Consoles{KernelLog: "-", Paths: []string{path}}.Emergency(t.Context(), "text\n"), fs.ErrNotExist)
	require.NoFileExists(t, path)
}
