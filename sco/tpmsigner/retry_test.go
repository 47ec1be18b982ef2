package tpmsigner_test

import (
	"context"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

// busyTPM is busy every other time.
type busyTPM struct {
	*tpmsim.TPM
	n, busy int
}

func (b *busyTPM) Send(cmd []byte) ([]byte, error) {
	if b.n++; b.n%2 == 1 {
		b.busy++
		return hex.DecodeString("80010000000a00000922")
	}
	return b.TPM.Send(cmd)
}

func TestSignerWaitsForABusyTPM(t *testing.T) {
	tpm := &busyTPM{TPM: tpmsim.New(t)}
	s, err := tpmsigner.New(tpmsigner.Config{TPM: tpm})
	require.NoError(t, err)
	ev, err := s.Evidence(context.Background())
	require.NoError(t, err)
	prove(t, s, ev)
	require.Greater(t, tpm.busy, 5)
}
