package tpmsim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/peer"
)

// ErrUnavailable means that no backend can run here.
var ErrUnavailable = errors.New(`no TPM simulator: install "swtpm", or build with cgo, the OpenSSL headers and -tags mssim`)

// engine is one way to run a simulated TPM.
type engine interface {
	transport.TPM
	// powerCycle restarts the TPM; only persistent state is left.
	powerCycle() error
	spec() string
	stop() error
}

// Backend is a kind of simulated TPM.
type Backend struct {
	// Name is "swtpm" or "mssim".
	Name string

	open func() (engine, error)
}

// Backends returns the kinds that can run here.
func Backends() []Backend {
	var all []Backend
	if _, err := exec.LookPath("swtpm"); err == nil {
		all = append(all, Backend{Name: "swtpm", open: openSwtpm})
	}
	return append(all, inProcess()...)
}

// Open starts a new TPM of the first kind that can run here.
func Open() (*TPM, error) {
	all := Backends()
	if len(all) == 0 {
		return nil, ErrUnavailable
	}
	return all[0].Open()
}

// Each runs f as a subtest on every backend. It needs at least swtpm.
func Each(t *testing.T, f func(t *testing.T, b Backend)) {
	t.Helper()
	peer.Need(t, "swtpm")
	for _, b := range Backends() {
		t.Run(b.Name, func(t *testing.T) { f(t, b) })
	}
}

// New starts a new TPM that is stopped at the end of the test.
func New(tb testing.TB) *TPM {
	tb.Helper()
	peer.Need(tb, "swtpm")
	return Backends()[0].New(tb)
}

// New starts a new TPM that is stopped at the end of the test.
func (b Backend) New(tb testing.TB) *TPM {
	tb.Helper()
	t, err := b.Open()
	if err != nil {
		tb.Fatalf("start %s: %v", b.Name, err)
	}
	tb.Cleanup(func() { _ = t.Close() })
	return t
}

// Open starts a new TPM, which the caller closes.
func (b Backend) Open() (*TPM, error) {
	e, err := b.open()
	if err != nil {
		return nil, err
	}
	return &TPM{engine: e}, nil
}

// TPM is a simulated TPM. It is a [transport.TPMCloser] and safe for concurrent
// use: commands are sent one after the other.
type TPM struct {
	mu     sync.Mutex
	engine engine
	spies  []func(command, response []byte)
	closed bool
}

var errClosed = errors.New("tpmsim: the TPM is closed")

// Send implements [transport.TPM].
func (t *TPM) Send(command []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	// The in-process simulator decrypts parameters in place, in the caller's
	// slice, so it gets one of its own.
	response, err := t.engine.Send(bytes.Clone(command))
	if err != nil {
		return nil, err
	}
	for _, spy := range t.spies {
		spy(command, response)
	}
	return response, nil
}

// Wire lets f see the bytes of every later command and response, as somebody
// with a probe on the bus sees them. f must not use the TPM or keep the slices.
func (t *TPM) Wire(f func(command, response []byte)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spies = append(t.spies, f)
}

// Reset shuts the TPM down and starts it again, as a reboot of the machine does.
// Transient objects, sessions and resettable state are gone.
func (t *TPM) Reset() error {
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(t); err != nil {
		return fmt.Errorf("tpmsim: shutdown: %w", err)
	}
	return t.PowerCycle()
}

// PowerCycle restarts the TPM without an orderly shutdown.
func (t *TPM) PowerCycle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	return t.engine.powerCycle()
}

// Clear runs TPM2_Clear: the owner's keys are gone for good, and the storage
// hierarchy has a new seed.
func (t *TPM) Clear() error {
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{
		Handle: tpm2.TPMRHLockout,
		Auth:   tpm2.PasswordAuth(nil),
	}}.Execute(t)
	if err != nil {
		return fmt.Errorf("tpmsim: clear: %w", err)
	}
	return nil
}

// Spec returns what reaches this TPM from another process, in the form
// "swtpm:PATH", or "" when nothing does.
func (t *TPM) Spec() string { return t.engine.spec() }

// Close stops the TPM and forgets it. It may be called more than once.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return t.engine.stop()
}

// CommandChannel returns the form that attest.OpenConfig of go-attestation
// takes. Closing the channel does not close the TPM.
func (t *TPM) CommandChannel() *CommandChannel { return &CommandChannel{tpm: t} }

// CommandChannel carries one command at a time: Write sends it, Read returns the
// response. transport.ToReadWriter is not used because it ends each response
// with io.EOF, which the reader in go-attestation takes for a failure.
type CommandChannel struct {
	tpm      transport.TPM
	response []byte
}

func (c *CommandChannel) Write(command []byte) (int, error) {
	response, err := c.tpm.Send(command)
	if err != nil {
		return 0, err
	}
	c.response = response
	return len(command), nil
}

func (c *CommandChannel) Read(p []byte) (int, error) {
	n := copy(p, c.response)
	c.response = c.response[n:]
	return n, nil
}

// Close does nothing.
func (c *CommandChannel) Close() error { return nil }

// MeasurementLog returns an error: a simulated machine measures nothing.
func (c *CommandChannel) MeasurementLog() ([]byte, error) {
	return nil, fmt.Errorf("tpmsim: measurement log: %w", os.ErrNotExist)
}
