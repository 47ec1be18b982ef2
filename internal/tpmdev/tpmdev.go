// Package tpmdev opens the TPM that a reference binary is told to use.
package tpmdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/swtpm"
)

// The forms of a TPM specification.
const (
	// Simulator asks for a software TPM of our own.
	Simulator = "simulator"
	// SimulatorPrefix, followed by a directory, asks for the software TPM
	// whose state is in that directory.
	SimulatorPrefix = "simulator:"
	// SocketPrefix, followed by a path, asks for the TPM behind that Unix
	// socket.
	SocketPrefix = "swtpm:"
	devPrefix    = "/dev/"
)

// Help describes the forms in one line, for the -h text of a flag.
const Help = `TPM to use: "simulator", "simulator:DIR", "swtpm:SOCKET" or a device such as "/dev/tpmrm0"`

const (
	// commandTimeout bounds one command. RSA key generation on a slow TPM
	// takes tens of seconds.
	commandTimeout = 90 * time.Second
	startTimeout   = 30 * time.Second
	maxResponse    = 4096
	headerSize     = 10
)

// Open opens the TPM that spec names; see [Help] for the forms. The software
// TPM of "simulator" keeps its state in simulatorDir, which is made when it is
// not there; it is a child process that Close ends, and a second Open of the
// same directory waits for the first to be closed. What Open returns is safe
// for concurrent use.
func Open(spec, simulatorDir string) (transport.TPMCloser, error) {
	switch {
	case spec == Simulator:
		return openSimulator(simulatorDir)
	case strings.HasPrefix(spec, SimulatorPrefix):
		return openSimulator(strings.TrimPrefix(spec, SimulatorPrefix))
	case strings.HasPrefix(spec, SocketPrefix):
		return OpenSocket(strings.TrimPrefix(spec, SocketPrefix))
	case strings.HasPrefix(spec, devPrefix):
		return openDevice(spec)
	}
	return nil, fmt.Errorf(`tpm: %.64q is none of "simulator", "simulator:DIR", "swtpm:SOCKET", "/dev/tpmrm0"`, spec)
}

// OpenSocket opens the TPM behind a Unix socket, such as the data socket of
// swtpm.
func OpenSocket(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("tpm: %q is not a socket", path)
	}
	return &socket{path: path}, nil
}

// socket dials for each command, so that several processes can take turns at
// one software TPM, which serves one connection at a time.
type socket struct {
	mu   sync.Mutex
	path string
}

// Send implements [transport.TPM].
func (s *socket) Send(command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := net.Dial("unix", s.path)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	if _, err := conn.Write(command); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	response := make([]byte, maxResponse)
	if _, err := io.ReadFull(conn, response[:headerSize]); err != nil {
		return nil, fmt.Errorf("tpm: read response: %w", err)
	}
	// The response size is the second field of the header (TPM 2.0 Library,
	// Part 1, 18.1).
	size := int(response[2])<<24 | int(response[3])<<16 | int(response[4])<<8 | int(response[5])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("tpm: response claims %d bytes, which is not between %d and %d", size, headerSize, maxResponse)
	}
	if _, err := io.ReadFull(conn, response[headerSize:size]); err != nil {
		return nil, fmt.Errorf("tpm: read response: %w", err)
	}
	return response[:size], nil
}

// Close does nothing: no connection is kept.
func (s *socket) Close() error { return nil }

// simulated is the software TPM of one directory.
type simulated struct {
	transport.TPMCloser
	proc *swtpm.Process
	lock io.Closer
}

func openSimulator(dir string) (transport.TPMCloser, error) {
	if dir == "" {
		return nil, errors.New("tpm: no directory for the simulator's state")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	lock, err := lockFile(ctx, filepath.Join(dir, "in-use"))
	if err != nil {
		return nil, fmt.Errorf("tpm: simulator in %q is in use: %w", dir, err)
	}
	proc, err := swtpm.Start(ctx, swtpm.Config{StateDir: dir})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tpm: %w", err), lock.Close())
	}
	tpm, err := OpenSocket(proc.Socket())
	if err != nil {
		return nil, errors.Join(err, proc.Stop(), lock.Close())
	}
	return &simulated{TPMCloser: tpm, proc: proc, lock: lock}, nil
}

func (s *simulated) Close() error {
	return errors.Join(s.TPMCloser.Close(), s.proc.Stop(), s.lock.Close())
}
