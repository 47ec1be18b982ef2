//go:build !unix

package directory

import (
	"errors"
	"io"
)

func lockFile(string) (io.Closer, error) {
	return nil, errors.New("locking is not supported on this system")
}
