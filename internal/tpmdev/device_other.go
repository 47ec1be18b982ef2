//go:build !linux

package tpmdev

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2/transport"
)

func openDevice(path string) (transport.TPMCloser, error) {
	return nil, fmt.Errorf("tpm: open %q: TPM devices are supported on Linux alone: %w", path, errors.ErrUnsupported)
}

func lockFile(context.Context, string) (io.Closer, error) {
	return nil, fmt.Errorf("the simulator is supported on Linux alone: %w", errors.ErrUnsupported)
}
