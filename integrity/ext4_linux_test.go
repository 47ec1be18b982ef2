package integrity_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/internal/peer"
)

// ext4Disk is an ext4 file system with encryption, in a file on a loop device.
type ext4Disk struct {
	fscrypt.Kernel
	image, mount string
	device       string
}

func newExt4Disk(t *testing.T) disk { return newExt4(t, 24<<20) }

// newExt4 makes a file system and mounts it. Mount and loop device are gone at
// the end of the test, however it ends.
func newExt4(t testing.TB, size int64) *ext4Disk {
	t.Helper()
	peer.NeedRoot(t)
	mkfs, losetup := peer.Need(t, "mkfs.ext4"), peer.Need(t, "losetup")
	dir, err := os.MkdirTemp("", "mooring-ext4-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k, err := fscrypt.System()
	require.NoError(t, err)
	d := &ext4Disk{Kernel: k, image: filepath.Join(dir, "image"), mount: filepath.Join(dir, "mnt")}
	require.NoError(t, os.Mkdir(d.mount, 0o700))
	require.NoError(t, os.WriteFile(d.image, nil, 0o600))
	require.NoError(t, os.Truncate(d.image, size))
	command(t, mkfs, "-q", "-F", "-b", "4096", "-O", "encrypt", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image)
	out, err := exec.Command(losetup, "--find", "--show", d.image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	d.device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		_ = unix.Unmount(d.mount, unix.MNT_DETACH)
		_ = exec.Command(losetup, "--detach", d.device).Run()
	})
	d.up(t)
	return d
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

func (d *ext4Disk) up(t testing.TB) {
	t.Helper()
	require.NoError(t, unix.Mount(d.device, d.mount, "ext4", 0, ""))
}

func (d *ext4Disk) down(t testing.TB) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err = unix.Unmount(d.mount, 0); err != unix.EBUSY {
			break
		}
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, err)
	// A mount name space that somebody else is just making or leaving keeps the
	// file system, and with it the keys. A device that is free can be opened
	// exclusively.
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var fd int
		if fd, err = unix.Open(d.device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
			require.NoError(t, unix.Close(fd))
			return
		}
	}
	require.NoError(t, err)
}

func (d *ext4Disk) root() string { return d.mount }

func (d *ext4Disk) restart(t *testing.T) {
	t.Helper()
	d.down(t)
	d.up(t)
}

func (d *ext4Disk) raw(t *testing.T) []byte {
	t.Helper()
	d.down(t)
	defer d.up(t)
	data, err := os.ReadFile(d.image)
	require.NoError(t, err)
	return data
}

func (d *ext4Disk) move(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}

func (d *ext4Disk) cover(t *testing.T, dir string) func() {
	t.Helper()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	return func() { require.NoError(t, unix.Unmount(dir, 0)) }
}

// TestSearchOfTheImageFindsPlainData keeps the search that the suite relies on
// honest: it finds what is written without encryption.
func TestSearchOfTheImageFindsPlainData(t *testing.T) {
	d := newExt4(t, 24<<20)
	require.NoError(t, os.WriteFile(filepath.Join(d.mount, "name-that-is-plain"), []byte(secret), 0o600))
	image := d.raw(t)
	require.True(t, bytes.Contains(image, []byte(secret)))
	require.True(t, bytes.Contains(image, []byte("name-that-is-plain")))
}

func fileSystems() map[string]func(t *testing.T) disk {
	return map[string]func(t *testing.T) disk{"fake kernel": newFakeDisk, "ext4": newExt4Disk}
}
