package pinned_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// loaded counts the handles of a kind that the TPM holds.
func loaded(t *testing.T, tpm *tpmsim.TPM, first uint32) int {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(tpm)
	require.NoError(t, err)
	handles, err := rsp.CapabilityData.Data.Handles()
	require.NoError(t, err)
	return len(handles.Handle)
}

func TestKeyIsPinnedAndNothingStaysLoaded(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for name, alg := range map[string]pinned.Algorithm{"RSA": pinned.RSA2048, "ECC": pinned.ECCP256} {
			t.Run(name, func(t *testing.T) {
				tpm := b.New(t)
				bus := pinned.NewBus(t.Context(), tpm)
				defer bus.Wipe()
				looked, err := pinned.Look(bus, alg, nil)
				require.NoError(t, err)
				looked.Close()
				key, err := pinned.Enrol(bus, alg, nil)
				require.NoError(t, err)
				require.Equal(t, looked.Name(), key.Name())
				random := make([]byte, 48)
				require.NoError(t, key.Random(random))
				require.NotEqual(t, make([]byte, 16), random[32:])
				session, end, err := key.Policy(pinned.Out)
				require.NoError(t, err)
				require.NotZero(t, session.Handle())
				end()
				key.Close()

				again, err := pinned.Open(bus, alg, key.Name(), nil)
				require.NoError(t, err)
				again.Close()
				_, err = pinned.Open(bus, alg, bytes.Repeat([]byte{1}, 34), nil)
				require.ErrorIs(t, err, pinned.ErrPin)
				_, err = pinned.Open(bus, alg, nil, nil)
				require.Error(t, err, "a key is never used without a pin")
				_, err = pinned.Open(bus, 9, key.Name(), nil)
				require.Error(t, err)

				name, err := pinned.EndorsementName(bus)
				require.NoError(t, err)
				require.NoError(t, tpm.Clear())
				_, err = pinned.Open(bus, alg, key.Name(), nil)
				require.ErrorIs(t, err, pinned.ErrPin, "cleared")
				same, err := pinned.EndorsementName(bus)
				require.NoError(t, err)
				require.Equal(t, name, same, "the endorsement key outlives a clear")

				require.Zero(t, loaded(t, tpm, 0x80000000), "transient objects")
				require.Zero(t, loaded(t, tpm, 0x02000000), "sessions")
				require.Zero(t, loaded(t, tpm, 0x03000000), "policy sessions")
			})
		}
	})
}

func TestEndedContextSendsNothing(t *testing.T) {
	tpm := tpmsim.New(t)
	sent := 0
	tpm.Wire(func(_, _ []byte) { sent++ })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := pinned.Look(pinned.NewBus(ctx, tpm), pinned.ECCP256, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, sent)
}
