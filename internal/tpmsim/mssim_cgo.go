//go:build cgo && mssim

package tpmsim

import (
	"errors"
	"sync"
	"time"

	"github.com/google/go-tpm-tools/simulator"
	"github.com/google/go-tpm/tpmutil"
)

// one is held while the in-process simulator runs: it is a set of C globals.
var one sync.Mutex

const oneTimeout = 2 * time.Minute

var errBusy = errors.New("tpmsim: the in-process simulator is in use: close the one you have first")

type mssimEngine struct{ sim *simulator.Simulator }

func inProcess() []Backend {
	return []Backend{{Name: "mssim", open: openMssim}}
}

func openMssim() (engine, error) {
	for deadline := time.Now().Add(oneTimeout); !one.TryLock(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, errBusy
		}
	}
	sim, err := simulator.Get()
	if err != nil {
		one.Unlock()
		return nil, err
	}
	return &mssimEngine{sim: sim}, nil
}

func (e *mssimEngine) Send(command []byte) ([]byte, error) {
	return tpmutil.RunCommandRaw(e.sim, command)
}

func (e *mssimEngine) powerCycle() error { return e.sim.Reset() }
func (e *mssimEngine) spec() string      { return "" }

func (e *mssimEngine) stop() error {
	defer one.Unlock()
	return e.sim.Close()
}
