//go:build !unix

package main

import (
	"errors"
	"fmt"
	"runtime"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("locked")

func lockFile(string) (unlock func(), err error) {
	return nil, fmt.Errorf("keeping a tunnel on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func isLocked(string) (bool, error) { return false, nil }

func lockDir(string) (unlock func(), err error) { return func() {}, nil }
