package patch_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/patch"
)

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func apply(before, p []byte) ([]byte, error) {
	r, err := patch.NewReader(bytes.NewReader(p), bytes.NewReader(before), 1<<24)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	id := [32]byte{1, 2, 3}
	for range 300 {
		before := random(rng, rng.IntN(5000))
		after := bytes.Clone(before)
		for range rng.IntN(6) {
			at, end := rng.IntN(len(after)+1), 0
			end = min(at+rng.IntN(200), len(after))
			switch rng.IntN(3) {
			case 0:
				after = append(after[:at:at], after[end:]...)
			case 1:
				after = append(after[:at:at], append(random(rng, rng.IntN(100)), after[at:]...)...)
			case 2:
				after = append(after[end:len(after):len(after)], after[:end]...)
			}
		}
		var p bytes.Buffer
		require.NoError(t, patch.Make(&p, before, after, id))
		got, err := apply(before, p.Bytes())
		require.NoError(t, err)
		require.True(t, bytes.Equal(after, got))
		for n := 0; n < p.Len(); n += 1 + p.Len()/50 {
			got, err := apply(before, p.Bytes()[:n])
			require.True(t, err != nil || bytes.Equal(got, after))
		}
	}
}

func TestSmallChangeMakesSmallPatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	before := random(rng, 5<<20)
	after := bytes.Clone(before)
	for range 100 {
		at := rng.IntN(len(after))
		after = append(after[:at:at], append(random(rng, 49), after[at:]...)...)
	}
	var p bytes.Buffer
	require.NoError(t, patch.Make(&p, before, after, [32]byte{}))
	require.Less(t, p.Len(), 100*70)
}

func TestBadPatchesAreRefused(t *testing.T) {
	_, err := patch.NewReader(bytes.NewReader(nil), nil, 10)
	require.Error(t, err)
	var p bytes.Buffer
	require.NoError(t, patch.Make(&p, nil, make([]byte, 100), [32]byte{}))
	_, err = patch.NewReader(&p, nil, 99)
	require.ErrorContains(t, err, "limit")
}

func FuzzReader(f *testing.F) {
	var p bytes.Buffer
	before := bytes.Repeat([]byte("0123456789abcdef"), 20)
	_ = patch.Make(&p, before, append([]byte("new"), before[3:]...), [32]byte{})
	f.Add(p.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := patch.NewReader(bytes.NewReader(data), bytes.NewReader(before), 1<<16)
		if err != nil {
			return
		}
		out, err := io.ReadAll(r)
		if err == nil && int64(len(out)) != r.Size || int64(len(out)) > r.Size {
			t.Fatalf("%d bytes instead of %d", len(out), r.Size)
		}
	})
}
