package index_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	mrand "math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/index"
)

func keepFirst(index.Class, []byte, []byte) bool { return false }

func distributions(n int) map[string][][]byte {
	rng := mrand.New(mrand.NewPCG(1, 2))
	random := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		b[0] |= 1
		return b
	}
	out := make(map[string][][]byte)
	for i := range n {
		var be [8]byte
		binary.BigEndian.PutUint64(be[:], uint64(i+1))
		out["random 16"] = append(out["random 16"], random(16))
		out["random 20"] = append(out["random 20"], random(20))
		out["random 33"] = append(out["random 33"], random(33))
		out["counting"] = append(out["counting"], bytes.TrimLeft(be[:], "\x00"))
		shared := random(18)
		copy(shared, "\x03\xa5\x11\x22\x33\x44\x55\x66\x77\x88")
		out["shared prefix"] = append(out["shared prefix"], shared)
		skewed := random(16)
		if i%10 != 0 {
			clear(skewed[1:10])
		}
		out["skewed"] = append(out["skewed"], skewed)
		crowd := bytes.Repeat([]byte{7}, 16)
		binary.BigEndian.PutUint64(crowd[8:], uint64(i))
		if i%3 == 0 {
			crowd[0] = byte(i)
		}
		out["crowded"] = append(out["crowded"], crowd)
		out["powers"] = append(out["powers"], append([]byte{1 << (i % 8)}, make([]byte, i/8%15)...))
	}
	return out
}

func build(t testing.TB, keys [][]byte, workers int, sampled bool) []index.Sorted {
	t.Helper()
	var layout index.Layout
	if sampled {
		b := index.NewBuilder(nil)
		for _, k := range keys[:len(keys)/4] {
			require.NotNil(t, b.Add(index.Class{}, k))
		}
		layout = b.Sample(len(keys))
	}
	builders := make([]*index.Builder, workers)
	for i := range builders {
		builders[i] = index.NewBuilder(layout)
		if i == 0 {
			builders[i] = index.NewBuilder(nil)
		}
	}
	for i, k := range keys {
		p := builders[i%workers].Add(index.Class{}, k)
		binary.BigEndian.PutUint32(p, uint32(i))
		p[4] = 1
	}
	out, _ := index.Finish(builders, keepFirst)
	return out
}

func TestEveryKeyIsFoundAndNoOther(t *testing.T) {
	for name, keys := range distributions(5000) {
		for _, sampled := range []bool{false, true} {
			for _, workers := range []int{1, 3} {
				out := build(t, keys, workers, sampled)
				want := make(map[string]bool)
				for _, k := range keys {
					want[string(k)] = true
				}
				total := 0
				views := make(map[uint8]*index.View)
				for i := range out {
					v := out[i].View()
					require.NoError(t, v.Check(), name)
					views[v.Width] = v
					total += v.Count
				}
				require.Equal(t, len(want), total, name)
				for _, k := range keys {
					v := views[index.WidthFor(len(k))]
					payload, ok := v.Find(k)
					require.True(t, ok, "%s: %x", name, k)
					i := binary.BigEndian.Uint32(payload)
					require.Equal(t, k, keys[i], name)
					miss := bytes.Clone(k)
					miss[len(miss)-1] ^= 0x55
					_, ok = v.Find(miss)
					require.Equal(t, want[string(miss)], ok, "%s: %x", name, miss)
				}
			}
		}
	}
}

func TestDiffIsExact(t *testing.T) {
	keys := distributions(3000)["random 16"]
	before := build(t, keys[:2000], 1, true)[0].View()
	after := build(t, keys[500:], 2, true)[0]
	var added, removed int
	require.NoError(t, index.Diff(before.Class, before.Records, after.Runs,
		func([]byte) { added++ }, func([]byte) { removed++ }))
	require.Equal(t, 1000, added)
	require.Equal(t, 500, removed)
	require.Error(t, index.Diff(before.Class, before.Records[1:], after.Runs, nil, nil))
}

func TestDuplicatesAreMerged(t *testing.T) {
	b := index.NewBuilder(nil)
	for i := range 100 {
		b.Add(index.Class{}, []byte{byte(i % 10), 1})[4] = byte(i % 9)
	}
	out, dup := index.Finish([]*index.Builder{b}, func(_ index.Class, a, b []byte) bool { return b[4] > a[4] })
	require.Equal(t, 90, dup)
	require.Equal(t, 10, out[0].Count)
	p, ok := out[0].View().Find([]byte{3, 1})
	require.True(t, ok)
	require.Equal(t, byte(8), p[4])
}

func TestMagnitude(t *testing.T) {
	for _, c := range []struct {
		in, mag  []byte
		negative bool
	}{
		{[]byte{0}, []byte{}, false},
		{[]byte{0, 0x80}, []byte{0x80}, false},
		{[]byte{0x7f}, []byte{0x7f}, false},
		{[]byte{0xff}, []byte{1}, true},
		{[]byte{0x80, 0}, []byte{0x80, 0}, true},
		{[]byte{0xff, 0x7f}, []byte{0x81}, true},
	} {
		mag, negative := index.Magnitude(c.in)
		require.Equal(t, c.mag, mag)
		require.Equal(t, c.negative, negative)
	}
}

func TestTooLongSerialIsRefused(t *testing.T) {
	require.Nil(t, index.NewBuilder(nil).Add(index.Class{}, make([]byte, index.MaxSerial+1)))
}

func TestBrokenViewStaysInBounds(t *testing.T) {
	keys := distributions(1000)["random 16"]
	v := build(t, keys, 1, false)[0].View()
	rng := mrand.New(mrand.NewPCG(3, 4))
	for range 2000 {
		broken := *v
		broken.Fan = bytes.Clone(v.Fan)
		broken.Fan[rng.IntN(len(broken.Fan))] ^= byte(1 << rng.IntN(8))
		broken.Find(keys[rng.IntN(len(keys))])
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	keys := distributions(1000)["random 16"]
	v := build(t, keys, 1, false)[0].View()
	require.Zero(t, testing.AllocsPerRun(100, func() { v.Find(keys[7]) }))
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(map[int]string{10_000: "10k", 1_000_000: "1M"}[n], func(b *testing.B) {
			keys := make([][]byte, n)
			for i := range keys {
				keys[i] = make([]byte, 16)
				_, _ = rand.Read(keys[i])
				keys[i][0] |= 1
			}
			v := build(b, keys, 2, true)[0].View()
			b.ReportMetric(float64(len(v.Records)+len(v.Fan))/float64(n), "B/entry")
			q := make([]byte, 16)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(q, keys[i%n])
				v.Find(q)
			}
		})
	}
}
