package tpmdev

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"golang.org/x/sys/unix"
)

// serial sends one command at a time: the device file refuses a second one
// while the first runs.
type serial struct {
	mu sync.Mutex
	transport.TPMCloser
}

func (s *serial) Send(command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.TPMCloser.Send(command)
}

func openDevice(path string) (transport.TPMCloser, error) {
	tpm, err := linuxtpm.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tpm: open %q: %w", path, err)
	}
	return &serial{TPMCloser: tpm}, nil
}

// lockFile takes an advisory lock that ends with the process.
func lockFile(ctx context.Context, path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		}
	}
}
