package pairfs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/pki/internal/pairfs"
)

// raw reads the two files as any other program would, with nothing repaired.
func raw(t *testing.T, dir string) (key, cert string) {
	t.Helper()
	k, err := os.ReadFile(filepath.Join(dir, "n.key"))
	require.NoError(t, err)
	c, err := os.ReadFile(filepath.Join(dir, "n.pem"))
	if os.IsNotExist(err) {
		return string(k), ""
	}
	require.NoError(t, err)
	return string(k), string(c)
}

func TestSwitchEachStop(t *testing.T) {
	t.Parallel()
	for name, oldCert := range map[string]string{"replace": "cert1", "first certificate": ""} {
		t.Run(name, func(t *testing.T) {
			durabletest.EachStop(t,
				func(t *testing.T) string {
					d := pairfs.Dir{Path: t.TempDir()}
					require.NoError(t, d.Init())
					require.NoError(t, d.PutKey("n", []byte("key1")))
					if oldCert != "" {
						require.NoError(t, d.PutCert("n", []byte(oldCert)))
					}
					require.NoError(t, d.PutPending("n", []byte("key2")))
					return d.Path
				},
				func(dir string, w durable.Writer) error {
					return pairfs.Dir{Path: dir, Writer: w}.Switch("n", []byte("cert2"))
				},
				func(t *testing.T, dir string, done bool) {
					key, cert := raw(t, dir)
					isNew := key == "key2" && cert == "cert2"
					require.True(t, isNew || key == "key1" && cert == oldCert, "a mix: %q with %q", key, cert)
					require.True(t, isNew || !done)

					d := pairfs.Dir{Path: dir}
					require.NoError(t, d.Init())
					key2, cert2 := raw(t, dir)
					require.Equal(t, []string{key, cert}, []string{key2, cert2}, "repairing changed the pair")
					p, err := d.Read("n")
					require.NoError(t, err)
					if isNew {
						require.Nil(t, p.Pending)
					} else {
						require.Equal(t, "key2", string(p.Pending), "the waiting key was lost")
						require.NoError(t, d.Switch("n", []byte("cert2")))
					}
					require.NoError(t, d.PutPending("n", []byte("key3")))
					require.NoError(t, d.PutCert("n", []byte("cert3")))
					plain(t, dir)
				})
		})
	}
}

// TestRecoverEachStop crashes while repairing.
func TestRecoverEachStop(t *testing.T) {
	t.Parallel()
	for stop := 1; stop < 60; stop += 7 {
		durabletest.EachStop(t,
			func(t *testing.T) string {
				d := pairfs.Dir{Path: t.TempDir()}
				require.NoError(t, d.Init())
				require.NoError(t, d.PutKey("n", []byte("key1")))
				require.NoError(t, d.PutCert("n", []byte("cert1")))
				require.NoError(t, d.PutPending("n", []byte("key2")))
				n := 0
				d.Writer.Before = func(durable.Step, string) error {
					if n++; n > stop {
						return durable.ErrStopped
					}
					return nil
				}
				_ = d.Switch("n", []byte("cert2"))
				return d.Path
			},
			func(dir string, w durable.Writer) error {
				// The writer counts at least one step, also when there is
				// nothing to repair.
				if err := w.SyncDir(dir); err != nil {
					return err
				}
				return pairfs.Dir{Path: dir, Writer: w}.Recover()
			},
			func(t *testing.T, dir string, _ bool) {
				key, cert := raw(t, dir)
				require.True(t, key == "key1" && cert == "cert1" || key == "key2" && cert == "cert2", "a mix: %q with %q", key, cert)
				require.NoError(t, pairfs.Dir{Path: dir}.Recover())
				key2, cert2 := raw(t, dir)
				require.Equal(t, []string{key, cert}, []string{key2, cert2})
				plain(t, dir)
			})
	}
}

// plain checks that the pair is in plain files with the right permissions and
// that nothing else is left.
func plain(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.Contains(t, []string{"n.key", "n.pem", "n.key.new"}, e.Name())
		require.True(t, e.Type().IsRegular(), e.Name())
		info, err := e.Info()
		require.NoError(t, err)
		if filepath.Ext(e.Name()) != ".pem" {
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), e.Name())
		}
	}
}

func TestNamesAndStamp(t *testing.T) {
	t.Parallel()
	d := pairfs.Dir{Path: filepath.Join(t.TempDir(), "a", "b")}
	require.NoError(t, d.Init())
	require.NoError(t, d.PutKey("x.key", []byte("k")))
	require.NoError(t, d.PutCert("y", []byte("c")))
	require.NoError(t, d.PutPending("z", []byte("c")))
	names, err := d.Names()
	require.NoError(t, err)
	require.Equal(t, []string{"x.key", "y", "z"}, names)
	before := d.Stamp("y")
	require.NoError(t, d.PutCert("y", []byte("d")))
	require.NotEqual(t, before, d.Stamp("y"))
	require.Error(t, d.Switch("y", []byte("c")), "nothing waits")
	require.NoError(t, os.Mkdir(filepath.Join(d.Path, "dir.pem"), 0o700))
	_, err = d.Read("dir")
	require.Error(t, err)
}

func TestLock(t *testing.T) {
	t.Parallel()
	d := pairfs.Dir{Path: t.TempDir()}
	unlock, err := d.Lock(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.Lock(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = d.Lock(t.Context())
	require.NoError(t, err)
	unlock()
}

// TestSwitchAfterStop goes on with a second switch where the first one stopped,
// with nothing repaired between them.
func TestSwitchAfterStop(t *testing.T) {
	t.Parallel()
	for stop := 0; stop < 60; stop += 2 {
		d := pairfs.Dir{Path: t.TempDir()}
		require.NoError(t, d.Init())
		require.NoError(t, d.PutKey("n", []byte("key1")))
		require.NoError(t, d.PutCert("n", []byte("cert1")))
		require.NoError(t, d.PutPending("n", []byte("key2")))
		n := 0
		broken := d
		broken.Writer.Before = func(durable.Step, string) error {
			if n++; n > stop {
				return durable.ErrStopped
			}
			return nil
		}
		_ = broken.Switch("n", []byte("cert2"))
		require.NoError(t, d.PutPending("n", []byte("key3")))
		n = 0
		_ = broken.Switch("n", []byte("cert3"))
		key, cert := raw(t, d.Path)
		require.Equal(t, key[3:], cert[4:], "a mix after %d steps: %q with %q", stop, key, cert)
		require.NoError(t, d.Recover())
	}
}
