package integrity_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/internal/ext4test"
)

func TestMain(m *testing.M) { os.Exit(ext4test.Main(m)) }

// ext4Disk is the real kernel with a real file system.
type ext4Disk struct {
	fscrypt.Kernel
	*ext4test.FS
}

func newExt4Disk(t *testing.T) disk { return newExt4(t, 24<<20) }

func newExt4(tb testing.TB, size int64) *ext4Disk {
	tb.Helper()
	k, err := fscrypt.System()
	require.NoError(tb, err)
	return &ext4Disk{k, ext4test.New(tb, size)}
}

func (d *ext4Disk) root() string            { return d.Mount }
func (d *ext4Disk) restart(t *testing.T)    { t.Helper(); d.Restart(t) }
func (d *ext4Disk) raw(t *testing.T) []byte { t.Helper(); return d.Raw(t) }
func (d *ext4Disk) move(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}
func (d *ext4Disk) cover(t *testing.T, dir string) func() { return ext4test.Cover(t, dir) }

// TestSearchOfTheImageFindsPlainData keeps the search that the suite relies on
// honest: it finds what is written without encryption.
func TestSearchOfTheImageFindsPlainData(t *testing.T) {
	d := newExt4(t, 24<<20)
	require.NoError(t, os.WriteFile(filepath.Join(d.Mount, "name-that-is-plain"), []byte(secret), 0o600))
	image := d.Raw(t)
	require.True(t, bytes.Contains(image, []byte(secret)))
	require.True(t, bytes.Contains(image, []byte("name-that-is-plain")))
}

func fileSystems() map[string]func(t *testing.T) disk {
	return map[string]func(t *testing.T) disk{"fake kernel": newFakeDisk, "ext4": newExt4Disk}
}
