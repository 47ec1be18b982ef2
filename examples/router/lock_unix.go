//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("locked")

// lockFile takes a lock that ends with the process at the latest.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return lock(f, unix.LOCK_EX)
}

// isLocked reports whether a process has the lock of lockFile. Its own lock is
// shared, so that those who ask at the same time don't see one another.
func isLocked(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	unlock, err := lock(f, unix.LOCK_SH)
	if err == nil {
		unlock()
	} else if errors.Is(err, errLocked) {
		return true, nil
	}
	return false, err
}

// lockDir locks a directory itself. It fails with errLocked also when the
// directory has meanwhile been replaced.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if unlock, err = lock(f, unix.LOCK_EX); err != nil {
		return nil, err
	}
	mine, err := f.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(dir); err == nil && !os.SameFile(mine, now) || errors.Is(err, os.ErrNotExist) {
			err = errLocked
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func lock(f *os.File, how int) (unlock func(), err error) {
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("locking %q: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}
