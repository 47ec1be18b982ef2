// Package swtpm runs the swtpm software TPM as a child process and lets it be
// reached through a Unix socket.
//
// A software TPM protects nothing: it is for tests and for trying the reference
// binaries out. This package only starts somebody else's program, so it needs
// no cgo.
package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// ErrNotInstalled means that there is no swtpm program on the PATH.
var ErrNotInstalled = errors.New(`the program "swtpm" is not installed (on Debian: apt-get install swtpm)`)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
	maxStderr    = 4096

	controlSuffix = ".ctrl"
)

// Config says where a software TPM keeps its state.
type Config struct {
	// StateDir holds the persistent state. It must exist; when it is empty a
	// new TPM is made in it.
	StateDir string
	// Socket is the path of the Unix socket to listen on. Empty means one in a
	// new temporary directory, which Stop removes.
	Socket string
}

// Process is a running software TPM. Its methods are safe for concurrent use.
type Process struct {
	socket  string
	tempDir string
	cmd     *exec.Cmd
	stderr  *tail
	exited  chan struct{}
	once    sync.Once
}

// Start runs a software TPM, already started up, and returns when it answers on
// its socket. ctx bounds only the start.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, ErrNotInstalled
	}
	if info, err := os.Stat(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("swtpm: state directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("swtpm: state directory %q is not a directory", cfg.StateDir)
	}
	p := &Process{socket: cfg.Socket, stderr: &tail{}, exited: make(chan struct{})}
	if p.socket == "" {
		// Unix socket paths are limited to about 100 bytes, so the socket
		// does not go into the state directory.
		p.tempDir, err = os.MkdirTemp("", "swtpm")
		if err != nil {
			return nil, fmt.Errorf("swtpm: %w", err)
		}
		p.socket = filepath.Join(p.tempDir, "s")
	}
	p.removeSockets()
	p.cmd = exec.Command(program, "socket", "--tpm2",
		"--tpmstate", "dir="+cfg.StateDir,
		"--server", "type=unixio,path="+p.socket,
		// tpm2-tools look for the control socket beside the other, under
		// this name.
		"--ctrl", "type=unixio,path="+p.socket+controlSuffix,
		"--flags", "not-need-init,startup-clear")
	p.cmd.Stderr = p.stderr
	p.cmd.Stdout = p.stderr
	p.cmd.SysProcAttr = sysProcAttr()

	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the thread that started the
		// child ends, so that thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		p.removeTemp()
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	if err := p.waitReady(ctx); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", p.socket); err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("swtpm: ended at once: %s", p.stderr.String())
		case <-ctx.Done():
			return fmt.Errorf("swtpm: did not answer: %w", ctx.Err())
		}
	}
}

// Socket returns the path of the Unix socket.
func (p *Process) Socket() string { return p.socket }

// Stop ends the software TPM as a power cut would; what the TPM keeps
// persistently stays in the state directory. It may be called more than once.
func (p *Process) Stop() error {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(stopTimeout):
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		p.removeSockets()
		p.removeTemp()
	})
	return nil
}

// removeSockets deletes what a process that was killed leaves, too.
func (p *Process) removeSockets() {
	_ = os.Remove(p.socket)
	_ = os.Remove(p.socket + controlSuffix)
}

func (p *Process) removeTemp() {
	if p.tempDir != "" {
		_ = os.RemoveAll(p.tempDir)
	}
}

// tail keeps the first bytes that a process complains with.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxStderr - t.buf.Len(); room > 0 {
		t.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf.Bytes()))
}
