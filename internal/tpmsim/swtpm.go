package tpmsim

import (
	"context"
	"errors"
	"os"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/swtpm"
	"github.com/mooringlib/mooring/internal/tpmdev"
)

type swtpmEngine struct {
	transport.TPM
	dir  string
	proc *swtpm.Process
}

func openSwtpm() (engine, error) {
	dir, err := os.MkdirTemp("", "tpmsim")
	if err != nil {
		return nil, err
	}
	e := &swtpmEngine{dir: dir}
	if err := e.start(dir + "/s"); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return e, nil
}

func (e *swtpmEngine) start(socket string) error {
	proc, err := swtpm.Start(context.Background(), swtpm.Config{StateDir: e.dir, Socket: socket})
	if err != nil {
		return err
	}
	tpm, err := tpmdev.OpenSocket(socket)
	if err != nil {
		_ = proc.Stop()
		return err
	}
	e.proc, e.TPM = proc, tpm
	return nil
}

func (e *swtpmEngine) powerCycle() error {
	socket := e.proc.Socket()
	if err := e.proc.Stop(); err != nil {
		return err
	}
	return e.start(socket)
}

func (e *swtpmEngine) spec() string { return tpmdev.SocketPrefix + e.proc.Socket() }

func (e *swtpmEngine) stop() error {
	return errors.Join(e.proc.Stop(), os.RemoveAll(e.dir))
}
