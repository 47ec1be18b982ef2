//go:build !unix

package autoinstall

import (
	"context"
	"errors"
)

func lock(context.Context, string) (func(), error) {
	return nil, errors.New("autoinstall: locking the state is not supported on this system")
}
