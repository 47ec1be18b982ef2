package tpmretry_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmretry"
)

// tpm answers with a code for a number of times, and with success afterwards.
type tpm struct {
	code tpm2.TPMRC
	left int
	sent int
	err  error
}

func (f *tpm) Send([]byte) ([]byte, error) {
	f.sent++
	rsp := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0}
	if f.left > 0 {
		f.left--
		binary.BigEndian.PutUint32(rsp[6:], uint32(f.code))
	}
	return rsp, f.err
}

func TestPatience(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		tpm  tpm
		sent int
		busy bool
	}{
		"not busy":      {tpm{}, 1, false},
		"busy for once": {tpm{code: tpm2.TPMRCRetry, left: 1}, 2, false},
		"testing":       {tpm{code: tpm2.TPMRCTesting, left: 3}, 4, false},
		"for ever":      {tpm{code: tpm2.TPMRCYielded, left: 1000}, tpmretry.Tries, true},
		"another error": {tpm{code: tpm2.TPMRCFailure, left: 1000}, 1, true},
		"broken":        {tpm{code: tpm2.TPMRCRetry, left: 1000, err: broken}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				rsp, err := tpmretry.TPM{TPM: &c.tpm}.Send(nil)
				require.ErrorIs(t, err, c.tpm.err)
				require.Equal(t, c.busy, binary.BigEndian.Uint32(rsp[6:]) != 0)
				require.Equal(t, c.sent, c.tpm.sent)
				require.Less(t, time.Since(begin), 2*time.Second)
			})
		})
	}
}
