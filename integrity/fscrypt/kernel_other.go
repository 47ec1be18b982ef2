//go:build !linux

package fscrypt

import (
	"errors"
	"fmt"
	"syscall"
)

// NoKey is Linux's error for a key that is not there.
const NoKey = syscall.Errno(126)

// System returns an error: only Linux has this kind of encryption.
func System() (Kernel, error) {
	return nil, fmt.Errorf("fscrypt: %w", errors.ErrUnsupported)
}
