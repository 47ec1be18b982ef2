//go:build !linux

package partial

import (
	"errors"
	"fmt"
	"os"
)

// Lock says that this system has no lock that dies with its process in a way
// that we rely on, instead of going on without one.
func Lock(*os.File) error {
	return fmt.Errorf("locking a partial download: %w on this system", errors.ErrUnsupported)
}

func Locked(*os.File) bool { return false }

func datasync(f *os.File) error { return f.Sync() }

func startWriteback(*os.File, int64, int64) {}

func reserve(f *os.File, _ string, size int64) error { return f.Truncate(size) }
