package ext4test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mooringlib/mooring/internal/peer"
)

const (
	inside  = "MOORING_EXT4TEST_INSIDE"
	timeout = 30 * time.Second
)

// Main runs the tests of a package, in a mount name space of their own where
// this process may make one. It is called from TestMain and returns the exit
// code.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		// A container may be root without this right.
		return m.Run()
	}
	var exit *exec.ExitError
	switch err := cmd.Wait(); {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	return 2
}

// FS is a mounted file system.
type FS struct {
	// Image is the file that holds it, Mount where it is mounted.
	Image, Mount string
	device       string
}

// New makes a file system of size bytes and mounts it. Mount and loop device are
// gone at the end of the test, however it ends.
func New(tb testing.TB, size int64) *FS {
	tb.Helper()
	peer.NeedRoot(tb)
	mkfs, losetup := peer.Need(tb, "mkfs.ext4"), peer.Need(tb, "losetup")
	dir, err := os.MkdirTemp("", "mooring-ext4-")
	must(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &FS{Image: filepath.Join(dir, "image"), Mount: filepath.Join(dir, "mnt")}
	must(tb, os.Mkdir(f.Mount, 0o700))
	must(tb, os.WriteFile(f.Image, nil, 0o600))
	must(tb, os.Truncate(f.Image, size))
	out, err := exec.Command(mkfs, "-q", "-F", "-b", "4096", "-O", "encrypt", "-E", "lazy_itable_init=0,lazy_journal_init=0", f.Image).CombinedOutput()
	if err != nil {
		tb.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	out, err = exec.Command(losetup, "--find", "--show", f.Image).CombinedOutput()
	if err != nil {
		tb.Skipf("no loop device: %v: %s", err, out)
	}
	f.device = strings.TrimSpace(string(out))
	tb.Cleanup(func() {
		_ = unix.Unmount(f.Mount, unix.MNT_DETACH)
		_ = exec.Command(losetup, "--detach", f.device).Run()
	})
	f.Up(tb)
	return f
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Up mounts the file system.
func (f *FS) Up(tb testing.TB) {
	tb.Helper()
	must(tb, unix.Mount(f.device, f.Mount, "ext4", 0, ""))
}

// Down unmounts the file system, and returns when it is really gone.
func (f *FS) Down(tb testing.TB) {
	tb.Helper()
	retry(tb, func() error { return unix.Unmount(f.Mount, 0) })
	// A name space that a child process is just leaving may have a copy. A
	// device that is free can be opened exclusively.
	retry(tb, func() error {
		fd, err := unix.Open(f.device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// retry repeats what fails with EBUSY, which other processes cause.
func retry(tb testing.TB, try func() error) {
	tb.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			tb.Fatal(err)
		}
	}
}

// Restart unmounts and mounts, as a reboot does: every key is gone.
func (f *FS) Restart(tb testing.TB) {
	tb.Helper()
	f.Down(tb)
	f.Up(tb)
}

// Raw returns the bytes on the disk.
func (f *FS) Raw(tb testing.TB) []byte {
	tb.Helper()
	f.Down(tb)
	defer f.Up(tb)
	data, err := os.ReadFile(f.Image)
	must(tb, err)
	return data
}

// Cover mounts a file system that cannot encrypt over a directory.
func Cover(tb testing.TB, dir string) (uncover func()) {
	tb.Helper()
	must(tb, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	return func() { must(tb, unix.Unmount(dir, 0)) }
}
