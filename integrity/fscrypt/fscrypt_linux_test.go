package fscrypt_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/integritytest"
	"github.com/mooringlib/mooring/internal/ext4test"
)

func TestMain(m *testing.M) { os.Exit(ext4test.Main(m)) }

// eachKernel runs f on the fake kernel and on the real one, so that the fake
// stays what it stands for.
func eachKernel(t *testing.T, f func(t *testing.T, k fscrypt.Kernel, root string, restart func())) {
	t.Run("fake", func(t *testing.T) {
		root := t.TempDir()
		k := integritytest.NewKernel(root)
		f(t, k, root, func() { require.NoError(t, k.Reboot()) })
	})
	t.Run("ext4", func(t *testing.T) {
		fs := ext4test.New(t, 16<<20)
		k, err := fscrypt.System()
		require.NoError(t, err)
		f(t, k, fs.Mount, func() { fs.Restart(t) })
	})
}

func TestIdentifierOfTheKernel(t *testing.T) {
	// The value was computed by hand from RFC 5869; that the kernel agrees is
	// checked by each AddKey.
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	id, err := fscrypt.Identify(key)
	require.NoError(t, err)
	require.Equal(t, "37d7d76a59400083289c185526730d34", id.String())
	for _, n := range []int{0, 16, 31, 33, 65} {
		_, err := fscrypt.Identify(make([]byte, n))
		require.ErrorIs(t, err, fscrypt.ErrKeySize)
	}
}

func TestLifeOfADirectory(t *testing.T) {
	eachKernel(t, func(t *testing.T, k fscrypt.Kernel, root string, restart func()) {
		for _, size := range []int{32, 64} {
			key := bytes.Repeat([]byte{byte(size)}, size)
			dir := filepath.Join(root, "dir", string(rune('a'+size/32)))
			require.NoError(t, os.MkdirAll(dir, 0o700))
			_, err := fscrypt.GetPolicy(k, dir)
			require.ErrorIs(t, err, fscrypt.ErrPlain)
			// AddKey compares with what the kernel calls the key.
			id, err := fscrypt.AddKey(k, root, key)
			require.NoError(t, err)
			require.NoError(t, fscrypt.SetPolicy(k, dir, fscrypt.NewPolicy(id)))
			require.NoError(t, fscrypt.SetPolicy(k, dir, fscrypt.NewPolicy(id)), "again")
			other := fscrypt.NewPolicy(id)
			other.Flags = 0
			require.ErrorIs(t, fscrypt.SetPolicy(k, dir, other), fscrypt.ErrOtherPolicy)
			got, err := fscrypt.GetPolicy(k, dir)
			require.NoError(t, err)
			require.Equal(t, fscrypt.NewPolicy(id), got)
			require.NoError(t, k.Probe(dir), "empty")
			require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
			require.NoError(t, k.Probe(dir))
			presence(t, k, root, id, fscrypt.Present)

			require.NoError(t, fscrypt.RemoveKey(k, root, id))
			require.NoError(t, fscrypt.RemoveKey(k, root, id), "again")
			presence(t, k, root, id, fscrypt.Absent)
			require.ErrorIs(t, k.Probe(dir), fscrypt.ErrLocked)
			_, err = fscrypt.AddKey(k, root, key)
			require.NoError(t, err)
			restart()
			presence(t, k, root, id, fscrypt.Absent)
			require.ErrorIs(t, k.Probe(dir), fscrypt.ErrLocked)
			got, err = fscrypt.GetPolicy(k, dir)
			require.NoError(t, err, "the policy is read while locked")
			require.Equal(t, id, got.Identifier)
			_, err = fscrypt.AddKey(k, root, key)
			require.NoError(t, err)
			data, err := os.ReadFile(filepath.Join(dir, "file"))
			require.NoError(t, err)
			require.Equal(t, "x", string(data))
		}
	})
}

func presence(t *testing.T, k fscrypt.Kernel, dir string, id fscrypt.Identifier, want fscrypt.Presence) {
	t.Helper()
	p, err := fscrypt.KeyPresence(k, dir, id)
	require.NoError(t, err)
	require.Equal(t, want, p)
}

func TestRefusals(t *testing.T) {
	eachKernel(t, func(t *testing.T, k fscrypt.Kernel, root string, _ func()) {
		full := filepath.Join(root, "full")
		require.NoError(t, os.Mkdir(full, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(full, "file"), nil, 0o600))
		require.ErrorIs(t, fscrypt.SetPolicy(k, full, fscrypt.NewPolicy(fscrypt.Identifier{1})), fscrypt.ErrNotEmpty)
		_, err := fscrypt.GetPolicy(k, filepath.Join(root, "missing"))
		require.ErrorIs(t, err, os.ErrNotExist)
		_, err = fscrypt.GetPolicy(k, filepath.Join(full, "file"))
		require.Error(t, err)
		link := filepath.Join(root, "link")
		require.NoError(t, os.Symlink(full, link))
		_, err = fscrypt.GetPolicy(k, link)
		require.Error(t, err, "no symbolic link is followed")
		_, err = fscrypt.AddKey(k, root, make([]byte, 16))
		require.ErrorIs(t, err, fscrypt.ErrKeySize)
	})
}

func TestFileSystemWithoutEncryption(t *testing.T) {
	fs := ext4test.New(t, 16<<20)
	dir := filepath.Join(fs.Mount, "dir")
	require.NoError(t, os.Mkdir(dir, 0o700))
	defer ext4test.Cover(t, dir)()
	k, err := fscrypt.System()
	require.NoError(t, err)
	_, err = fscrypt.GetPolicy(k, dir)
	require.ErrorIs(t, err, fscrypt.ErrUnsupported)
	require.ErrorIs(t, fscrypt.SetPolicy(k, dir, fscrypt.NewPolicy(fscrypt.Identifier{1})), fscrypt.ErrUnsupported)
	_, err = fscrypt.AddKey(k, dir, make([]byte, 32))
	require.True(t, errors.Is(err, fscrypt.ErrUnsupported), "%v", err)
}
