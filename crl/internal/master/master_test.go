package master_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/internal/durable"
)

var (
	issuerA = []byte("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01A")
	issuerB = []byte("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01B")
)

func parsed(serials ...byte) *list.Parsed {
	b := index.NewBuilder(nil)
	for _, s := range serials {
		p := b.Add(index.Class{Issuer: uint32(s % 2)}, []byte{s})
		binary.BigEndian.PutUint32(p, uint32(s)*100)
		p[4] = 1
	}
	p := b.Add(index.Class{Kind: index.Extra}, []byte{200})
	binary.BigEndian.PutUint64(p, 5)
	binary.BigEndian.PutUint64(p[8:], 6)
	p = b.Add(index.Class{}, []byte{200})
	p[4] = index.FlagExtra | 6
	out, _ := index.Finish([]*index.Builder{b}, func(index.Class, []byte, []byte) bool { return false })
	return &list.Parsed{Classes: out, Issuers: [][]byte{issuerA, issuerB}}
}

func write(t testing.TB, path string, inputs ...master.Input) *master.File {
	t.Helper()
	f, err := master.Write(durable.Writer{}, path, 7, time.Unix(1000, 0), inputs)
	require.NoError(t, err)
	return f
}

func TestWrittenIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	first := write(t, path, master.Input{Meta: master.Meta{ID: "x", Issuer: issuerA}, Entries: parsed(2, 3, 4)})
	write(t, path, master.Input{Meta: master.Meta{ID: "y"}, Entries: &list.Parsed{}}, master.Input{Meta: first.Lists[0], From: first})
	f, err := master.Open(path)
	require.NoError(t, err)
	require.EqualValues(t, 7, f.Generation)
	require.Equal(t, 1, f.Position("x"))
	require.Equal(t, -1, f.Position("z"))
	a, _ := name.KeyOf(issuerA)
	b, _ := name.KeyOf(issuerB)
	find := func(list int, k name.Key, serial byte) (master.Entry, bool) {
		return f.Find(list, k, []byte{serial}, false)
	}
	e, ok := find(1, a, 2)
	require.True(t, ok)
	require.Equal(t, master.Entry{Reason: 1, Date: 200, Invalidity: index.NoDate}, e)
	e, ok = find(1, a, 200)
	require.True(t, ok)
	require.Equal(t, master.Entry{Reason: 6, Date: 5, Invalidity: 6}, e)
	_, ok = find(1, b, 3)
	require.True(t, ok)
	for _, miss := range []struct {
		list   int
		k      name.Key
		serial byte
	}{{0, a, 2}, {1, b, 2}, {1, a, 3}, {1, name.Key{}, 2}} {
		_, ok := find(miss.list, miss.k, miss.serial)
		require.False(t, ok, "%v", miss)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { f.Find(1, a, []byte{2}, false) }))
	added, removed, err := master.Diff(f, 1, parsed(2, 4, 5, 6))
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, []int{added, removed})
}

// TestFormat reads what FORMAT.md says at the places where it says so.
func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	write(t, path, master.Input{Meta: master.Meta{ID: "x", Issuer: issuerA}, Entries: parsed(2, 4)})
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	le := binary.LittleEndian
	trailer := data[len(data)-128:]
	require.Equal(t, "MOORCRL1", string(data[:8]))
	require.EqualValues(t, 7, le.Uint64(data[8:]))
	require.EqualValues(t, 1000, le.Uint64(data[16:]))
	require.Equal(t, "MOOREND1", string(trailer[120:]))
	require.EqualValues(t, len(data), le.Uint64(trailer))
	sum := sha256.Sum256(data[:len(data)-128+88])
	require.Equal(t, sum[:], trailer[88:120])
	meta, n := le.Uint64(trailer[24:]), le.Uint64(trailer[32:])
	require.Contains(t, string(data[meta:meta+n]), `{"lists":[{"id":"x"`)
	row := data[le.Uint64(trailer[8:]):][:80]
	key, err := name.KeyOf(issuerA)
	require.NoError(t, err)
	require.Equal(t, key[:], row[4:36])
	require.Equal(t, []byte{0, 0, 8}, row[36:39])
	require.EqualValues(t, 3, le.Uint64(row[56:]))
	require.Equal(t, []byte("\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\xc8\x01"), data[le.Uint64(row[48:]):][:13])
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "m")
	write(f, path, master.Input{Meta: master.Meta{ID: "x", Issuer: issuerA}, Entries: parsed(2, 3, 4)})
	data, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(data)
	f.Add(data[:200])
	a, _ := name.KeyOf(issuerA)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 192 {
			return
		}
		// A digest that fits lets everything behind it be reached.
		data = bytes.Clone(data)
		sum := sha256.Sum256(data[:len(data)-40])
		copy(data[len(data)-40:], sum[:])
		path := filepath.Join(t.TempDir(), "m")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		m, err := master.Open(path)
		if err != nil {
			return
		}
		for i := range m.Lists {
			m.IndexSize(i)
			for s := range 256 {
				m.Find(i, a, []byte{byte(s)}, s%2 == 0)
			}
		}
	})
}
