//go:build !linux

package secmem

import (
	"errors"
	"fmt"
)

func alloc(int) ([]byte, error) {
	return nil, fmt.Errorf("secmem: locked memory: %w", errors.ErrUnsupported)
}

func free([]byte) {}
