//go:build !unix

package crl

import (
	"context"
	"errors"
)

// lockDirectory can't lock here, so that writing is refused.
func lockDirectory(context.Context, string) (unlock func(), err error) {
	return nil, errors.New("crl: writing the directory is not supported on this system")
}
