//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package pairfs

import (
	"context"
	"errors"
	"fmt"
)

// Lock is not there on this system.
func (d Dir) Lock(context.Context) (unlock func(), err error) {
	return nil, fmt.Errorf("lock %q: %w on this system", d.Path, errors.ErrUnsupported)
}
