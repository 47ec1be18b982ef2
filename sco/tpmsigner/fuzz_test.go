package tpmsigner_test

import (
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

func FuzzSplitCertificates(f *testing.F) {
	ca, err := tpmsim.NewEKCA()
	require.NoError(f, err)
	der := ca.Certificate.Raw
	f.Add(der)
	f.Add(append(append(append([]byte{}, der...), der...), make([]byte, 100)...))
	f.Add([]byte{0x30, 0x82, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, c := range tpmsigner.SplitCertificates(b) {
			total += len(c)
			_, err := x509.ParseCertificate(c)
			require.NoError(t, err)
		}
		require.LessOrEqual(t, total, len(b))
	})
}
