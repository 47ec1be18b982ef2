package tpmwrap_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func FuzzParseBlob(f *testing.F) {
	// A blob by hand: sealed, literal, one PCR, and short fields.
	seed := []byte{1, 1, 2, 0, 0, 1, 'n', 0, 1, 'e', 0, 6, 's', 'h', 'a', '2', '5', '6', 1, 7, 0, 32}
	seed = append(seed, make([]byte, 32)...)
	seed = append(seed, 0, 1, 'p', 0, 1, 'q', 0, 0, 0, 0, 0, 0)
	if _, err := tpmwrap.ParseBlob(seed); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		again, err := tpmwrap.ParseBlob(data)
		if err != nil {
			require.Equal(t, cause.RecordCorrupt, cause.Of(err))
			return
		}
		require.Equal(t, data, again)
	})
}

func TestBlobCutAtEveryLength(t *testing.T) {
	w := sealed(t, tpmwrap.Config{Open: openerOf(tpmsim.New(t)), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{PCRs: []uint{7}}})
	data, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	again, err := tpmwrap.ParseBlob(data)
	require.NoError(t, err)
	require.Equal(t, data, again)
	for n := range data {
		_, err := tpmwrap.ParseBlob(data[:n])
		require.Equal(t, cause.RecordCorrupt, cause.Of(err), "%d bytes", n)
	}
}
