package tpmwrap_test

import (
	"context"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/integritytest"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// held keeps a simulated TPM running when a wrapper closes it.
type held struct{ transport.TPM }

func (held) Close() error { return nil }

func openerOf(tpm transport.TPM) func(context.Context) (transport.TPMCloser, error) {
	return func(context.Context) (transport.TPMCloser, error) { return held{tpm}, nil }
}

func TestWrappersKeepTheContract(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for name, parent := range map[string]tpmwrap.Parent{"RSA": tpmwrap.ParentRSA2048, "ECC": tpmwrap.ParentECCP256} {
			t.Run("sealed under "+name, func(t *testing.T) {
				tpm := b.New(t)
				integritytest.TestKeyWrapper(t, func(t *testing.T) integrity.KeyWrapper {
					w, err := tpmwrap.NewSealed(tpmwrap.Config{Open: openerOf(tpm), Parent: parent})
					require.NoError(t, err)
					return w
				})
			})
		}
		t.Run("sealed to PCRs", func(t *testing.T) {
			tpm := b.New(t)
			integritytest.TestKeyWrapper(t, func(t *testing.T) integrity.KeyWrapper {
				w, err := tpmwrap.NewSealed(tpmwrap.Config{Open: openerOf(tpm), Policy: tpmwrap.Policy{PCRs: []uint{7, 0, 11}}})
				require.NoError(t, err)
				return w
			})
		})
		t.Run("OAEP", func(t *testing.T) {
			tpm := b.New(t)
			integritytest.TestKeyWrapper(t, func(t *testing.T) integrity.KeyWrapper {
				w, err := tpmwrap.NewOAEP(tpmwrap.OAEPConfig{Config: tpmwrap.Config{Open: openerOf(tpm)}, Label: "acme"})
				require.NoError(t, err)
				return w
			})
		})
	})
}

func TestFakeKeepsTheContract(t *testing.T) {
	tpm := integritytest.NewTPM()
	integritytest.TestKeyWrapper(t, func(*testing.T) integrity.KeyWrapper { return &integritytest.Wrapper{TPM: tpm} })
}
