package fscrypt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NoKey is the kernel's error for a key that is not there.
const NoKey = unix.ENOKEY

// System returns the running kernel.
func System() (Kernel, error) { return linux{}, nil }

type linux struct{}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func open(path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags, perm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (linux) Ioctl(dir string, request uint, arg []byte) error {
	switch request {
	case RequestSetPolicy:
		request = unix.FS_IOC_SET_ENCRYPTION_POLICY
	case RequestGetPolicy:
		request = unix.FS_IOC_GET_ENCRYPTION_POLICY_EX
	case RequestAddKey:
		request = unix.FS_IOC_ADD_ENCRYPTION_KEY
	case RequestRemoveKey:
		request = unix.FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS
	case RequestKeyStatus:
		request = unix.FS_IOC_GET_ENCRYPTION_KEY_STATUS
	default:
		return fmt.Errorf("fscrypt: request %#x: %w", request, unix.EINVAL)
	}
	fd, err := open(dir, openDir, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&arg[0])))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return &os.PathError{Op: "ioctl", Path: dir, Err: errno}
	}
	if request == unix.FS_IOC_SET_ENCRYPTION_POLICY {
		if err := unix.Fsync(fd); err != nil {
			return &os.PathError{Op: "fsync", Path: dir, Err: err}
		}
	}
	return nil
}

func (linux) Device(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return uint64(st.Dev), nil
}

func (linux) Probe(dir string) error {
	if read, err := probeRead(dir); read || err != nil {
		return err
	}
	// Nothing is there to be read. A file without a name needs the directory's
	// key and a cipher that works as well, and the file system forgets it at
	// close.
	fd, err := open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENOKEY):
		return ErrLocked
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS), errors.Is(err, unix.EOPNOTSUPP):
		// A full or read-only disk is not a broken promise.
		return nil
	}
	return &os.PathError{Op: "probe", Path: dir, Err: err}
}

// probeRead reads a byte of the first plain file, if there is one. A locked
// directory lists names, but none of its files opens.
func probeRead(dir string) (read bool, err error) {
	d, err := os.OpenFile(dir, openDir, 0)
	if err != nil {
		return false, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxProbed)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		fd, err := open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			// Somebody removed it meanwhile.
			continue
		}
		if errors.Is(err, unix.ENOKEY) {
			return false, ErrLocked
		}
		if err != nil {
			return false, &os.PathError{Op: "open", Path: path, Err: err}
		}
		var b [1]byte
		_, err = unix.Pread(fd, b[:], 0)
		_ = unix.Close(fd)
		if err != nil {
			return false, &os.PathError{Op: "read", Path: path, Err: err}
		}
		return true, nil
	}
	return false, nil
}
