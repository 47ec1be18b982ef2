package fsmeta

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

var (
	raw  = bytes.Repeat([]byte{7}, rawKeySize)
	salt = []byte("salt of a system")
)

func derived(t testing.TB) fscrypt.Identifier {
	key, err := Derive(raw, salt)
	require.NoError(t, err)
	defer key.Destroy()
	id, err := fscrypt.Identify(key.Bytes())
	require.NoError(t, err)
	return id
}

func TestEnsureAtEveryStop(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) string { return t.TempDir() },
		func(dir string, w durable.Writer) error {
			return Store{Mount: dir, Writer: w}.Ensure(raw, salt, "name")
		},
		func(t *testing.T, dir string, _ bool) {
			s := Store{Mount: dir}
			require.NoError(t, s.Ensure(raw, salt, "name"))
			key, err := s.Open(raw, derived(t))
			require.NoError(t, err)
			defer key.Destroy()
			want, err := Derive(raw, salt)
			require.NoError(t, err)
			defer want.Destroy()
			require.Equal(t, want.Bytes(), key.Bytes())
		})
}

func TestOpenRefuses(t *testing.T) {
	s := Store{Mount: t.TempDir()}
	id := derived(t)
	_, err := s.Open(raw, id)
	require.ErrorIs(t, err, ErrNoMetadata)
	require.ErrorIs(t, s.Ensure(raw[:31], salt, "name"), fscrypt.ErrKeySize)
	require.NoError(t, s.Ensure(raw, salt, "name"))
	_, err = s.Open(bytes.Repeat([]byte{8}, rawKeySize), id)
	require.ErrorIs(t, err, ErrWrongKey)

	path := s.path(policies, id.String())
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for n := range good {
		require.NoError(t, os.WriteFile(path, good[:n], 0o600))
		_, err := s.Open(raw, id)
		require.Error(t, err, "cut to %d bytes", n)
	}
	// The policy of another key under this name.
	other, err := Derive(raw, []byte("other"))
	require.NoError(t, err)
	defer other.Destroy()
	otherID, err := fscrypt.Identify(other.Bytes())
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.NoError(t, s.Ensure(raw, []byte("other"), "name"))
	require.NoError(t, os.Rename(s.path(policies, otherID.String()), path))
	_, err = s.Open(raw, id)
	require.ErrorIs(t, err, ErrWrongKey)
	// A protector's name never leaves the folder.
	p := policy{descriptor: id.String(), keys: []policyKey{{protector: "../../../../etc/passwd"}}}
	require.NoError(t, os.WriteFile(path, p.marshal(), 0o600))
	_, err = s.Open(raw, id)
	require.ErrorIs(t, err, ErrWrongKey)
	require.NoError(t, os.WriteFile(path, make([]byte, maxFile+1), 0o600))
	_, err = s.Open(raw, id)
	require.ErrorIs(t, err, errWire)
	require.NoFileExists(t, filepath.Join(s.Mount, "etc"))
}

func FuzzParse(f *testing.F) {
	p := policy{descriptor: "d", padding: 32, contents: 1, names: 4, version: 2, keys: []policyKey{{protector: "p", key: wrapped{[]byte{1}, []byte{2}, []byte{3}}}}}
	f.Add(p.marshal())
	f.Add(protector{descriptor: "d", source: 3, name: "n", key: wrapped{[]byte{1}, []byte{2}, []byte{3}}}.marshal())
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := parsePolicy(data); err == nil {
			again, err := parsePolicy(p.marshal())
			require.NoError(t, err)
			require.Equal(t, p.marshal(), again.marshal())
		}
		if p, err := parseProtector(data); err == nil {
			again, err := parseProtector(p.marshal())
			require.NoError(t, err)
			require.Equal(t, p.marshal(), again.marshal())
		}
	})
}
