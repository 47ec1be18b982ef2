package record_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

func sample(t testing.TB) record.Record {
	m := &record.Manifest{Mode: record.Compat, Salt: [16]byte{1, 2, 3}, Entries: []record.Entry{
		{Path: "/etc/router", Policy: fscrypt.NewPolicy(fscrypt.Identifier{9})},
		{Path: "/var/lib/router/keys", Policy: fscrypt.NewPolicy(fscrypt.Identifier{8})},
	}}
	data, err := m.Marshal()
	require.NoError(t, err)
	back, err := record.ParseManifest(data)
	require.NoError(t, err)
	require.Equal(t, m, back)
	return record.Record{Generation: 7, Complete: true, Manifest: data, Wrapped: []byte("wrapped key")}
}

func TestRecordSurvivesTheRoundTrip(t *testing.T) {
	r := sample(t)
	data, err := r.Marshal()
	require.NoError(t, err)
	back, err := record.Parse(data)
	require.NoError(t, err)
	require.Equal(t, &r, back)
	require.Equal(t, sha256.Sum256(r.Manifest), back.Binding())
}

func TestEveryDamageIsFound(t *testing.T) {
	r := sample(t)
	data, err := r.Marshal()
	require.NoError(t, err)
	for n := range data {
		_, err := record.Parse(data[:n])
		require.ErrorIs(t, err, record.ErrCorrupt, "cut to %d bytes", n)
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[n] ^= 1 << bit
			_, err := record.Parse(bad)
			require.ErrorIs(t, err, record.ErrCorrupt, "bit %d of byte %d flipped", bit, n)
		}
	}
	for n := range r.Manifest {
		_, err := record.ParseManifest(r.Manifest[:n])
		require.ErrorIs(t, err, record.ErrCorrupt)
	}
	_, err = record.ParseManifest(append(bytes.Clone(r.Manifest), 0))
	require.ErrorIs(t, err, record.ErrCorrupt)
}

// seal gives changed bytes a right checksum.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

func TestOtherVersionsAndFlagsAreRefused(t *testing.T) {
	r := sample(t)
	data, err := r.Marshal()
	require.NoError(t, err)
	body := data[:len(data)-sha256.Size]
	for at, value := range map[int]byte{0: 'X', 11: 2, 20: 0x80} {
		bad := bytes.Clone(body)
		bad[at] = value
		_, err := record.Parse(seal(bad))
		require.ErrorIs(t, err, record.ErrCorrupt)
		require.NotContains(t, err.Error(), "checksum")
	}
}

func TestPathsAreChecked(t *testing.T) {
	for name, paths := range map[string][]string{
		"none": {}, "relative": {"etc"}, "unclean": {"/etc/../x"}, "root": {"/"}, "twice": {"/a", "/a"},
		"nested": {"/a", "/a/b/c"}, "zero byte": {"/a\x00b"}, "too long": {"/" + strings.Repeat("a", record.MaxPath)},
		"too many": make([]string, record.MaxDirectories+1),
	} {
		require.Error(t, record.CheckPaths(paths), name)
	}
	require.NoError(t, record.CheckPaths([]string{"/a", "/ab", "/b/c"}))
}

func TestSlotsKeepTheOldUntilTheNewIsThere(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) record.Slots {
			s := record.Slots{Dir: t.TempDir()}
			_, err := s.Store(nil, sample(t))
			require.NoError(t, err)
			return s
		},
		func(s record.Slots, w durable.Writer) error {
			s.Writer = w
			found, err := s.Load()
			if err != nil {
				return err
			}
			next, err := s.Store(&found[0], record.Record{Manifest: found[0].Manifest, Wrapped: []byte("new")})
			if err != nil {
				return err
			}
			require.EqualValues(t, 2, next.Generation)
			return s.Drop(found[0])
		},
		func(t *testing.T, s record.Slots, done bool) {
			found, err := s.Load()
			require.NoError(t, err)
			require.NotEmpty(t, found)
			if done {
				require.Len(t, found, 1)
				require.Equal(t, "new", string(found[0].Wrapped))
			}
		})
}

func TestDamagedSlotIsReportedBesideTheOther(t *testing.T) {
	s := record.Slots{Dir: t.TempDir()}
	first, err := s.Store(nil, sample(t))
	require.NoError(t, err)
	_, err = s.Store(&first, sample(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "record-b"), []byte("damage"), 0o600))
	found, err := s.Load()
	require.ErrorIs(t, err, record.ErrCorrupt)
	require.ErrorContains(t, err, "record-b")
	require.Len(t, found, 1)
}

func FuzzParse(f *testing.F) {
	r := sample(f)
	data, err := r.Marshal()
	require.NoError(f, err)
	f.Add(data[:len(data)-sha256.Size])
	f.Add([]byte("MOORINGREC"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		// With a right checksum, so that the form is reached.
		r, err := record.Parse(seal(bytes.Clone(body)))
		if err != nil {
			return
		}
		again, err := r.Marshal()
		require.NoError(t, err)
		require.Equal(t, seal(bytes.Clone(body)), again)
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add(sample(f).Manifest)
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := record.ParseManifest(data)
		if err != nil {
			return
		}
		again, err := m.Marshal()
		require.NoError(t, err)
		require.Equal(t, data, again)
	})
}
