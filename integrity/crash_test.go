package integrity_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/integritytest"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// requireWhole enables a system that a power cut interrupted, if it has to be,
// and shows that it works over a restart.
func requireWhole(t *testing.T, r *rig, done bool) {
	t.Helper()
	r.powerCycle(t)
	h := r.handler(t)
	err := h.RunOnce(t.Context())
	switch {
	case err == nil:
	case !done && cause.Of(err) == cause.NotEnabled:
		require.False(t, r.gate.isAllowed())
		require.NoError(t, h.Enable(t.Context()), "enabling goes on where it was interrupted")
	default:
		t.Fatalf("after the power cut: %v", err)
	}
	require.ErrorIs(t, h.Enable(t.Context()), integrity.ErrAlreadyEnabled)
	r.writeSecrets(t)
	r.powerCycle(t)
	r.requireLocked(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	r.requireSecrets(t)
	files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
}

func TestPowerCutAtEveryFileStepOfEnable(t *testing.T) {
	for _, mode := range []integrity.Mode{integrity.ModeDirect, integrity.ModeCompat} {
		t.Run(string(mode), func(t *testing.T) {
			durabletest.EachStop(t,
				func(t *testing.T) *rig {
					return newRig(t, newFakeDisk(t), newFakeMachine(t), bootLiteral, mode)
				},
				func(r *rig, w durable.Writer) error {
					cfg := r.config(t)
					h, err := integrity.New(integrity.WithWriter(cfg, w))
					require.NoError(t, err)
					return h.Enable(t.Context())
				},
				requireWhole)
		})
	}
}

// errPower is what the bus says once the power is gone.
var errPower = errors.New("power is off")

// cutTPM loses power before the n-th command.
type cutTPM struct {
	transport.TPM
	left *atomic.Int64
}

func (c cutTPM) Send(command []byte) ([]byte, error) {
	if c.left.Add(-1) < 0 {
		return nil, errPower
	}
	return c.TPM.Send(command)
}

func (cutTPM) Close() error { return nil }

// TestPowerCutAtEveryTPMCommandOfEnable cuts the power between two commands of a
// real TPM, so that what it stores is half there.
func TestPowerCutAtEveryTPMCommandOfEnable(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		for n := int64(0); ; n++ {
			require.Less(t, n, int64(500), "an enabling without end")
			var left atomic.Int64
			left.Store(n)
			cut := &cutMachine{simMachine: &simMachine{TPM: tpm}, left: &left}
			r := newRig(t, newFakeDisk(t), cut, bootLiteral, integrity.ModeDirect)
			err := r.handler(t).Enable(t.Context())
			cut.left = nil
			t.Run(fmt.Sprintf("before command %d", n+1), func(t *testing.T) {
				require.NoError(t, tpm.PowerCycle())
				requireWhole(t, r, err == nil)
			})
			if err == nil {
				return
			}
			require.ErrorContains(t, err, errPower.Error())
			require.NoError(t, tpm.Clear())
			require.NoError(t, tpm.Reset())
		}
	})
}

type cutMachine struct {
	*simMachine
	left *atomic.Int64
}

func (m *cutMachine) wrapper(t *testing.T, b boot) integrity.KeyWrapper {
	cfg := m.config(b)
	cfg.Parent = tpmwrap.ParentECCP256
	if left := m.left; left != nil {
		cfg.Open = func(context.Context) (transport.TPMCloser, error) {
			if left.Load() <= 0 {
				return nil, errPower
			}
			return cutTPM{m.TPM, left}, nil
		}
	}
	w, err := tpmwrap.NewSealed(cfg)
	require.NoError(t, err)
	return w
}

func TestPowerCutAtEveryStepOfANewWrapping(t *testing.T) {
	next := func(r *rig) integrity.KeyWrapper {
		m, _ := r.machine.(*fakeMachine)
		return &integritytest.Wrapper{TPM: m.TPM, PCRs: []uint{3, 7, 11}}
	}
	durabletest.EachStop(t,
		func(t *testing.T) *rig {
			r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootLiteral, integrity.ModeDirect)
			require.NoError(t, r.handler(t).Enable(t.Context()))
			r.writeSecrets(t)
			r.powerCycle(t)
			return r
		},
		func(r *rig, w durable.Writer) error {
			h, err := integrity.New(integrity.WithWriter(r.config(t), w))
			require.NoError(t, err)
			return h.Rewrap(t.Context(), next(r))
		},
		func(t *testing.T, r *rig, done bool) {
			r.powerCycle(t)
			// The product's configuration may be the old one or the new one.
			for _, w := range []integrity.KeyWrapper{r.machine.wrapper(t, bootLiteral), next(r)} {
				cfg := r.config(t)
				cfg.Wrapper = w
				h, err := integrity.New(cfg)
				require.NoError(t, err)
				require.NoError(t, h.RunOnce(t.Context()))
				r.requireSecrets(t)
				r.powerCycle(t)
			}
			if !done {
				return
			}
			r.machine.extend(t, 3)
			require.Equal(t, cause.PCRChanged, cause.Of(r.handler(t).RunOnce(t.Context())), "the new wrapping is in force, and only that")
		})
}

func TestNewWrappingThatDoesNotOpenLeavesTheOld(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	h := r.handler(t)
	require.NoError(t, h.Enable(t.Context()))
	r.writeSecrets(t)
	m, _ := r.machine.(*fakeMachine)
	require.Error(t, h.Rewrap(t.Context(), brokenWrapper{&integritytest.Wrapper{TPM: m.TPM}}))
	r.powerCycle(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	r.requireSecrets(t)
}

// brokenWrapper gives another key than it got.
type brokenWrapper struct{ *integritytest.Wrapper }

func (w brokenWrapper) Unwrap(ctx context.Context, wrapped, binding, key []byte) (bool, error) {
	vouched, err := w.Wrapper.Unwrap(ctx, wrapped, binding, key)
	key[0] ^= 1
	return vouched, err
}

func TestWrongKeyOpensNothing(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	r.powerCycle(t)
	cfg := r.config(t)
	m, _ := r.machine.(*fakeMachine)
	cfg.Wrapper = brokenWrapper{&integritytest.Wrapper{TPM: m.TPM}}
	h, err := integrity.New(cfg)
	require.NoError(t, err)
	require.Equal(t, cause.WrongKey, cause.Of(h.RunOnce(t.Context())))
	r.requireLocked(t)
	require.False(t, r.gate.isAllowed())
}

// TestKeyMovesBetweenKindsOfPolicies wraps the key anew for each kind of policy
// on a real TPM.
func TestKeyMovesBetweenKindsOfPolicies(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		r := newRig(t, newFakeDisk(t), newSimMachine(b)(t), bootNone, integrity.ModeDirect)
		require.NoError(t, r.handler(t).Enable(t.Context()))
		r.writeSecrets(t)
		for _, next := range []boot{bootLiteral, bootSigned, bootNone, bootSigned, bootLiteral} {
			r.powerCycle(t)
			r.machine.sign(t, 16, false)
			require.NoError(t, r.handler(t).Rewrap(t.Context(), r.machine.wrapper(t, next)), next)
			require.NotEqual(t, r.boot, next)
			r.powerCycle(t)
			require.Equal(t, cause.ConfigChanged, cause.Of(r.handler(t).RunOnce(t.Context())), "the old configuration no longer opens")
			r.boot = next
			require.NoError(t, r.handler(t).RunOnce(t.Context()))
			r.requireSecrets(t)
		}
	})
}

// TestRestartAfterAnInterruptedMove has the records of two kinds of policies, and
// a service that is started again after the key was capped.
func TestRestartAfterAnInterruptedMove(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newSimMachine(tpmsim.Backends()[0])(t), bootLiteral, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	old, err := os.ReadFile(files[0])
	require.NoError(t, err)
	r.powerCycle(t)
	r.machine.sign(t, 16, false)
	require.NoError(t, r.handler(t).Rewrap(t.Context(), r.machine.wrapper(t, bootSigned)))
	// The power was cut before the old record was dropped.
	require.NoError(t, os.WriteFile(files[0], old, 0o600))
	r.powerCycle(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	require.NoError(t, r.handler(t).RunOnce(t.Context()), "the old record vouches for what is open")
	r.requireSecrets(t)
}
