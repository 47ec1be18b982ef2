package partial_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/internal/partial"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/peer"
)

func TestDiskSpaceIsCheckedFirst(t *testing.T) {
	peer.NeedRoot(t)
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	i := newImage(t, 64, 1)
	path := filepath.Join(dir, "out")
	_, err := i.open(t, path, durable.Writer{})
	var space *partial.SpaceError
	require.ErrorAs(t, err, &space)
	require.Positive(t, space.Need)
	require.ErrorContains(t, err, "disk full")
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=4m"))
	im, err := i.open(t, path, durable.Writer{})
	require.NoError(t, err)
	defer im.Close()
	// The space is reserved: nobody can take it away afterwards.
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	_, _ = filler.Write(make([]byte, 8<<20))
	require.NoError(t, filler.Close())
	require.NoError(t, os.Remove(filler.Name()))
	fill(im, i.data)
	require.NoError(t, im.Finish(t.Context()))
}
