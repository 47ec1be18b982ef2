package partial

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Lock takes the file for this open file description. The kernel gives the lock
// up when the process dies, however it dies.
func Lock(f *os.File) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return err
}

// Locked reports whether somebody else holds the lock, without taking it.
func Locked(f *os.File) bool {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// startWriteback asks the kernel to write a range out, and does not wait. A
// kernel or file system that cannot do that does it at the next sync.
func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// reserve makes sure, before the first byte is fetched, that the disk can hold
// the image.
func reserve(f *os.File, path string, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("partial: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil {
		free := int64(fs.Bavail) * fs.Bsize
		if need := size - st.Blocks*512; need > free {
			return &SpaceError{Path: path, Need: need, Available: free, Err: unix.ENOSPC}
		}
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		// This file system cannot promise the space; the check above stands.
		return f.Truncate(size)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &SpaceError{Path: path, Need: size - st.Blocks*512, Available: int64(fs.Bavail) * fs.Bsize, Err: err}
	}
	return fmt.Errorf("partial: reserving %d bytes in %q: %w", size, filepath.Dir(path), err)
}
