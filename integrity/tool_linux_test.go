package integrity_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/fsmeta"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// tool is the fscrypt command line tool of the distribution. It reads its
// configuration from /etc, so it runs in a mount name space with an /etc of its
// own, and nothing of this machine is changed.
type tool struct{ unshare, fscrypt, etc string }

const toolConfig = `{
	"source": "custom_passphrase",
	"hash_costs": {"time": "1", "memory": "1024", "parallelism": "1", "truncationFixed": true},
	"options": {"padding": "32", "contents": "AES_256_XTS", "filenames": "AES_256_CTS", "policy_version": "2"},
	"use_fs_keyring_for_v1_policies": false,
	"allow_cross_user_metadata": false
}
`

func newTool(t testing.TB) *tool {
	peer.NeedRoot(t)
	f := &tool{unshare: peer.Need(t, "unshare"), fscrypt: peer.Need(t, "fscrypt"), etc: t.TempDir()}
	for _, name := range []string{"passwd", "group", "nsswitch.conf"} {
		if data, err := os.ReadFile("/etc/" + name); err == nil {
			require.NoError(t, os.WriteFile(filepath.Join(f.etc, name), data, 0o600))
		}
	}
	require.NoError(t, os.Symlink("/proc/self/mounts", filepath.Join(f.etc, "mtab")))
	require.NoError(t, os.WriteFile(filepath.Join(f.etc, "fscrypt.conf"), []byte(toolConfig), 0o600))
	return f
}

func (f *tool) command(args ...string) *exec.Cmd {
	return exec.Command(f.unshare, append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc && exec "$@"`, f.etc, f.fscrypt}, args...)...)
}

func (f *tool) run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := f.command(args...)
	cmd.Stdin = strings.NewReader("passphrase\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "fscrypt %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// rawKey unwraps the key of an enabled system into a file, which only a test
// does.
func rawKey(t *testing.T, r *rig) (key []byte, file string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
	require.NoError(t, err)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	rec, err := record.Parse(data)
	require.NoError(t, err)
	key = make([]byte, integrity.KeySize)
	binding := rec.Binding()
	_, err = r.machine.wrapper(t, r.boot).Unwrap(t.Context(), rec.Wrapped, binding[:], key)
	require.NoError(t, err)
	file = filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, key, 0o600))
	return key, file
}

func TestFscryptToolManagesCompatDirectories(t *testing.T) {
	f := newTool(t)
	d := newExt4Disk(t)
	r := newRig(t, d, newSimMachine(tpmsim.Backends()[0])(t), bootNone, integrity.ModeCompat)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	_, file := rawKey(t, r)
	require.NoError(t, r.handler(t).Lock(t.Context()))

	require.Contains(t, f.run(t, "status", r.dirs[0]), "Unlocked: No")
	f.run(t, "unlock", r.dirs[0], "--key="+file, "--quiet")
	// One key opens all directories of a file system.
	r.requireSecrets(t)
	require.Contains(t, f.run(t, "status", r.dirs[1]), "Unlocked: Yes")
	f.run(t, "lock", r.dirs[0], "--quiet")
	r.requireLocked(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	r.requireSecrets(t)

	t.Run("a protector that the tool adds does not disturb", func(t *testing.T) {
		policies, err := os.ReadDir(filepath.Join(d.root(), ".fscrypt", "policies"))
		require.NoError(t, err)
		protectors, err := os.ReadDir(filepath.Join(d.root(), ".fscrypt", "protectors"))
		require.NoError(t, err)
		require.Len(t, policies, 1)
		require.Len(t, protectors, 1)
		f.run(t, "metadata", "create", "protector", d.root(), "--source=custom_passphrase", "--name=operator", "--user=root", "--quiet")
		all, err := os.ReadDir(filepath.Join(d.root(), ".fscrypt", "protectors"))
		require.NoError(t, err)
		require.Len(t, all, 2)
		other := all[0].Name()
		if other == protectors[0].Name() {
			other = all[1].Name()
		}
		// The tool asks the new protector's passphrase on standard input, and
		// gets the raw key from the file.
		f.run(t, "metadata", "add-protector-to-policy", "--protector="+d.root()+":"+other,
			"--policy="+d.root()+":"+policies[0].Name(), "--unlock-with="+d.root()+":"+protectors[0].Name(), "--key="+file, "--quiet")
		r.powerCycle(t)
		require.NoError(t, r.handler(t).RunOnce(t.Context()))
		r.requireSecrets(t)
	})
	t.Run("metadata that is lost is not needed", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(d.root(), ".fscrypt")))
		r.powerCycle(t)
		require.NoError(t, r.handler(t).RunOnce(t.Context()))
		r.requireSecrets(t)
	})
}

func TestDirectoryOfTheFscryptToolOpensWithTheRawKey(t *testing.T) {
	f := newTool(t)
	d := newExt4(t, 24<<20)
	raw := bytes.Repeat([]byte{0x5a, 0x01}, 16)
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	dir := filepath.Join(d.Mount, "made-by-the-tool")
	require.NoError(t, os.Mkdir(dir, 0o700))
	f.run(t, "setup", d.Mount, "--quiet")
	f.run(t, "encrypt", dir, "--source=raw_key", "--key="+file, "--name=tpm", "--user=root", "--quiet")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(secret), 0o600))
	f.run(t, "lock", dir, "--quiet")
	_, err := os.ReadFile(filepath.Join(dir, "file"))
	require.Error(t, err)

	p, err := fscrypt.GetPolicy(d, dir)
	require.NoError(t, err)
	require.Equal(t, fscrypt.NewPolicy(p.Identifier), p, "the tool's settings are ours")
	store := fsmeta.Store{Mount: d.Mount}
	_, err = store.Open(bytes.Repeat([]byte{1}, 32), p.Identifier)
	require.ErrorIs(t, err, fsmeta.ErrWrongKey)
	key, err := store.Open(raw, p.Identifier)
	require.NoError(t, err)
	defer key.Destroy()
	_, err = fscrypt.AddKey(d, dir, key.Bytes())
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(dir, "file"))
	require.NoError(t, err)
	require.Equal(t, secret, string(data))
}

func TestFscryptToolLocksAndShowsDirectDirectories(t *testing.T) {
	f := newTool(t)
	r := newRig(t, newExt4Disk(t), newSimMachine(tpmsim.Backends()[0])(t), bootNone, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	// The tool's metadata cannot describe a master key of 32 bytes, and the
	// tool says so instead of doing harm.
	out, err := f.command("status", r.dirs[0]).CombinedOutput()
	require.Error(t, err, string(out))
	r.requireSecrets(t)
	require.NoDirExists(t, filepath.Join(r.disk.root(), ".fscrypt"))
}

func TestBusyFilesAreReportedByLock(t *testing.T) {
	r := newRig(t, newExt4Disk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	h := r.handler(t)
	require.NoError(t, h.Enable(t.Context()))
	r.writeSecrets(t)
	open, err := os.Open(filepath.Join(r.dirs[0], "name-that-is-secret.conf"))
	require.NoError(t, err)
	require.ErrorIs(t, h.Lock(t.Context()), integrity.ErrBusy)
	require.NoError(t, open.Close())
	require.NoError(t, h.Lock(t.Context()))
	r.requireLocked(t)
}

// TestDirectoriesOnTwoFileSystems opens two file systems with one key.
func TestDirectoriesOnTwoFileSystems(t *testing.T) {
	for _, mode := range []integrity.Mode{integrity.ModeDirect, integrity.ModeCompat} {
		t.Run(string(mode), func(t *testing.T) {
			a, b := newExt4(t, 24<<20), newExt4(t, 24<<20)
			r := newRig(t, a, newFakeMachine(t), bootNone, mode)
			r.dirs = []string{filepath.Join(a.Mount, "one"), filepath.Join(b.Mount, "deep", "two")}
			require.NoError(t, r.handler(t).Enable(t.Context()))
			r.writeSecrets(t)
			b.restart(t)
			r.powerCycle(t)
			r.requireLocked(t)
			require.NoError(t, r.handler(t).RunOnce(t.Context()))
			r.requireSecrets(t)
		})
	}
}
