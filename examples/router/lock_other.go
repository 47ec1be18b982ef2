//go:build !unix

package main

import (
	"errors"
	"fmt"
	"runtime"
)

func lockFile(string) (unlock func(), err error) {
	return nil, fmt.Errorf("keeping a tunnel on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
