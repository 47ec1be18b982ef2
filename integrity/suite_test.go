package integrity_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/internal/record"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// eachRig runs f on every combination of file system and TPM that works here:
// the fakes need neither root nor anything installed.
func eachRig(t *testing.T, f func(t *testing.T, d func(t *testing.T) disk, m func(t *testing.T) machine)) {
	machines := map[string]func(t *testing.T) machine{"fake TPM": newFakeMachine}
	for _, b := range tpmsim.Backends() {
		machines[b.Name] = newSimMachine(b)
	}
	for fsName, d := range fileSystems() {
		for tpmName, m := range machines {
			if fsName == "ext4" && tpmName == "fake TPM" {
				continue
			}
			t.Run(fsName+" and "+tpmName, func(t *testing.T) {
				if tpmName != "mssim" {
					t.Parallel()
				}
				f(t, d, m)
			})
		}
	}
}

func TestLifeOfASystem(t *testing.T) {
	eachRig(t, func(t *testing.T, d func(t *testing.T) disk, m func(t *testing.T) machine) {
		for _, mode := range []integrity.Mode{integrity.ModeDirect, integrity.ModeCompat} {
			t.Run(string(mode), func(t *testing.T) {
				r := newRig(t, d(t), m(t), bootLiteral, mode)
				h := r.handler(t)
				findings, err := h.Check(t.Context())
				require.NoError(t, err)
				for _, f := range findings {
					require.True(t, f.OK, "%s: %s", f.Requirement, f.Detail)
				}
				require.Equal(t, cause.NotEnabled, cause.Of(h.Unlock(t.Context())))

				require.NoError(t, h.Enable(t.Context()))
				require.ErrorIs(t, h.Enable(t.Context()), integrity.ErrAlreadyEnabled)
				if mode == integrity.ModeCompat {
					require.DirExists(t, filepath.Join(r.disk.root(), ".fscrypt"))
				}
				r.writeSecrets(t)
				require.NoError(t, h.Lock(t.Context()))
				require.NoError(t, h.Lock(t.Context()))
				r.requireLocked(t)
				image := string(r.disk.raw(t))
				require.NotContains(t, image, secret)
				require.NotContains(t, image, "name-that-is-secret")

				r.powerCycle(t)
				r.requireLocked(t)
				st, err := r.handler(t).Status(t.Context())
				require.NoError(t, err)
				require.True(t, st.Enabled)
				require.False(t, st.Unlocked)

				h = r.handler(t)
				require.NoError(t, h.RunOnce(t.Context()))
				r.requireSecrets(t)
				require.True(t, r.gate.isAllowed())
				require.True(t, r.notes.ready())
				st, err = h.Status(t.Context())
				require.NoError(t, err)
				require.True(t, st.Unlocked)
				require.Equal(t, mode, st.Mode)
				require.Len(t, st.Directories, 3)
				require.Len(t, st.Directories[0].Identifier, 32)
				require.NotEmpty(t, st.Hardware)
				require.Nil(t, st.LastEvent)

				// A service that is restarted finds the directories open, and the
				// key capped, and goes on.
				require.NoError(t, r.handler(t).RunOnce(t.Context()))

				// Once locked, the key stays with the TPM until the next restart.
				require.NoError(t, h.Lock(t.Context()))
				require.False(t, r.gate.isAllowed())
				require.Equal(t, cause.Capped, cause.Of(h.RunOnce(t.Context())))
				r.requireLocked(t)
				r.powerCycle(t)
				require.NoError(t, r.handler(t).RunOnce(t.Context()))
				r.requireSecrets(t)
			})
		}
	})
}

// attack is something that is done to a system. Undoing it shows that the
// refusal did no damage.
type attack struct {
	name string
	want cause.Code
	do   func(t *testing.T, r *rig) (undo func())
}

func swap(r *rig, with func(t *testing.T, dir string)) func(t *testing.T, _ *rig) func() {
	return func(t *testing.T, r *rig) func() {
		dir := r.dirs[1]
		r.disk.move(t, dir, dir+".away")
		with(t, dir)
		return func() {
			require.NoError(t, os.RemoveAll(dir))
			r.disk.move(t, dir+".away", dir)
		}
	}
}

func diskAttacks(r *rig) []attack {
	own := func(t *testing.T) fscrypt.Policy {
		p, err := fscrypt.GetPolicy(r.disk, r.dirs[0])
		require.NoError(t, err)
		return p
	}
	encrypted := func(change func(p *fscrypt.Policy)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir, 0o700))
			p := own(t)
			change(&p)
			require.NoError(t, fscrypt.SetPolicy(r.disk, dir, p))
		}
	}
	return []attack{
		{"a plain directory swapped in", cause.DirectoryPlain, swap(r, func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "name-that-is-secret.conf"), []byte("evil"), 0o600))
		})},
		{"a symbolic link swapped in", cause.DirectoryPlain, swap(r, func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink(r.dirs[0], dir))
		})},
		{"a file swapped in", cause.DirectoryPlain, swap(r, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(dir, nil, 0o600))
		})},
		{"a directory with another key swapped in", cause.DirectoryWrongKey, swap(r, encrypted(func(p *fscrypt.Policy) { p.Identifier[0] ^= 1 }))},
		{"a directory with other modes swapped in", cause.DirectoryWrongPolicy, swap(r, encrypted(func(p *fscrypt.Policy) { p.Flags = 2 }))},
		{"a directory deleted", cause.DirectoryMissing, swap(r, func(*testing.T, string) {})},
		{"a file system without encryption mounted over", cause.Unsupported, func(t *testing.T, r *rig) func() {
			return r.disk.cover(t, r.dirs[2])
		}},
		{"a bit flipped in the record", cause.RecordCorrupt, changeRecord(func(_ *testing.T, data []byte) []byte {
			data[len(data)/2] ^= 4
			return data
		})},
		{"the record cut short", cause.RecordCorrupt, changeRecord(func(_ *testing.T, data []byte) []byte { return data[:len(data)/3] })},
		{"the record deleted", cause.StateMissing, changeRecord(func(*testing.T, []byte) []byte { return nil })},
		{"the manifest forged", cause.ManifestForged, changeRecord(func(t *testing.T, data []byte) []byte {
			rec, err := record.Parse(data)
			require.NoError(t, err)
			m, err := record.ParseManifest(rec.Manifest)
			require.NoError(t, err)
			m.Entries = m.Entries[:2]
			rec.Manifest, err = m.Marshal()
			require.NoError(t, err)
			out, err := rec.Marshal()
			require.NoError(t, err)
			return out
		})},
		{"the wrapped key damaged behind a good checksum", cause.RecordCorrupt, changeRecord(func(t *testing.T, data []byte) []byte {
			rec, err := record.Parse(data)
			require.NoError(t, err)
			rec.Wrapped[len(rec.Wrapped)-20] ^= 1
			out, err := rec.Marshal()
			require.NoError(t, err)
			return out
		})},
	}
}

// changeRecord replaces the content of the one record; nil deletes it.
func changeRecord(change func(t *testing.T, data []byte) []byte) func(t *testing.T, r *rig) func() {
	return func(t *testing.T, r *rig) func() {
		files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
		require.NoError(t, err)
		require.Len(t, files, 1, "one record in a system at rest")
		old, err := os.ReadFile(files[0])
		require.NoError(t, err)
		if data := change(t, append([]byte(nil), old...)); data == nil {
			require.NoError(t, os.Remove(files[0]))
		} else {
			require.NoError(t, os.WriteFile(files[0], data, 0o600))
		}
		return func() { require.NoError(t, os.WriteFile(files[0], old, 0o600)) }
	}
}

func tpmAttacks() []attack {
	return []attack{
		{"another TPM", cause.ForeignTPM, func(t *testing.T, r *rig) func() {
			own := r.machine
			other := newFakeMachine(t)
			if _, real := own.(*simMachine); real {
				// Of the in-process simulator there is only one in a process;
				// the first backend is another.
				other = newSimMachine(tpmsim.Backends()[0])(t)
			}
			// A policy comes with the system, not with the TPM.
			if sim, ok := other.(*simMachine); ok {
				ownSim, _ := own.(*simMachine)
				sim.vendor, sim.policy = ownSim.vendor, ownSim.policy
			}
			if fake, ok := other.(*fakeMachine); ok {
				ownFake, _ := own.(*fakeMachine)
				fake.signed = ownFake.signed
			}
			r.machine = other
			return func() { r.machine = own }
		}},
		{"firmware changed", cause.PCRChanged, func(t *testing.T, r *rig) func() {
			r.machine.extend(t, 7)
			return func() {}
		}},
	}
}

// requireEvent restarts the system after an attack and looks at what it does.
func requireEvent(t *testing.T, r *rig, a attack) {
	t.Helper()
	r.powerCycle(t)
	undo := a.do(t, r)
	h := r.handler(t)
	err := h.RunOnce(t.Context())
	require.Equal(t, a.want, cause.Of(err), "%v", err)
	require.False(t, r.gate.isAllowed(), "networking is blocked")
	require.False(t, r.notes.ready(), "nobody is told that the system is ready")
	text := r.consoleText()
	require.Contains(t, text, "the integrity of this system is compromised")
	require.Contains(t, text, string(a.want))
	require.Contains(t, text, a.want.Text())
	require.Contains(t, text, "RMA")
	for _, d := range r.dirs {
		_, err := os.ReadFile(filepath.Join(d, "name-that-is-secret.conf"))
		if err == nil {
			require.Contains(t, a.name, "swapped in", "no directory is open")
		}
	}
	if a.want == cause.PCRChanged {
		require.Contains(t, text, "Changed PCR: 7.")
	}
	st, serr := h.Status(t.Context())
	require.NoError(t, serr)
	require.NotNil(t, st.LastEvent)
	require.Equal(t, a.want, st.LastEvent.Cause)
	require.False(t, st.Unlocked)

	undo()
	r.powerCycle(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()), "the refusal did no damage")
	require.True(t, r.gate.isAllowed())
	r.requireSecrets(t)
}

func TestAttacksAreNamedAndDoNoDamage(t *testing.T) {
	eachRig(t, func(t *testing.T, d func(t *testing.T) disk, m func(t *testing.T) machine) {
		r := newRig(t, d(t), m(t), bootLiteral, integrity.ModeDirect)
		require.NoError(t, r.handler(t).Enable(t.Context()))
		r.writeSecrets(t)
		for _, a := range append(diskAttacks(r), tpmAttacks()...) {
			t.Run(a.name, func(t *testing.T) { requireEvent(t, r, a) })
		}
		t.Run("the anchor deleted", func(t *testing.T) {
			r.powerCycle(t)
			r.machine.forgetAnchor(t)
			require.Equal(t, cause.ManifestForged, cause.Of(r.handler(t).RunOnce(t.Context())))
			require.False(t, r.gate.isAllowed())
		})
		t.Run("the TPM cleared", func(t *testing.T) {
			r.powerCycle(t)
			r.machine.clear(t)
			require.Equal(t, cause.TPMCleared, cause.Of(r.handler(t).RunOnce(t.Context())))
			require.Contains(t, r.consoleText(), "Only a clean install or an RMA helps")
			require.False(t, r.gate.isAllowed())
			require.Error(t, r.handler(t).Enable(t.Context()), "a cleared TPM does not make the system new")
			r.requireLocked(t)
		})
	})
}

func TestSignedPolicy(t *testing.T) {
	eachRig(t, func(t *testing.T, d func(t *testing.T) disk, m func(t *testing.T) machine) {
		r := newRig(t, d(t), m(t), bootSigned, integrity.ModeDirect)
		r.machine.sign(t, 16, false)
		require.NoError(t, r.handler(t).Enable(t.Context()))
		r.writeSecrets(t)
		files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
		require.NoError(t, err)
		before, err := os.ReadFile(files[0])
		require.NoError(t, err)

		for _, a := range []attack{
			{"the policy deleted", cause.PolicyMissing, func(t *testing.T, r *rig) func() {
				r.machine.unsign(t)
				return func() { r.machine.reset(t); r.machine.sign(t, 16, false) }
			}},
			{"the policy signed by somebody else", cause.PolicyInvalid, func(t *testing.T, r *rig) func() {
				r.machine.sign(t, 16, true)
				return func() { r.machine.sign(t, 16, false) }
			}},
			{"firmware changed without a new policy", cause.PCRChanged, func(t *testing.T, r *rig) func() {
				r.machine.extend(t, 7)
				return func() {}
			}},
		} {
			t.Run(a.name, func(t *testing.T) { requireEvent(t, r, a) })
		}
		t.Run("a new release needs a new policy and no new wrapping", func(t *testing.T) {
			r.powerCycle(t)
			r.machine.extend(t, 7)
			r.machine.sign(t, 17, false)
			require.NoError(t, r.handler(t).RunOnce(t.Context()))
			r.requireSecrets(t)
			after, err := os.ReadFile(files[0])
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
		t.Run("a revoked policy is refused for good", func(t *testing.T) {
			r.powerCycle(t)
			r.machine.sign(t, 17, false)
			r.machine.revoke(t, 17)
			r.machine.sign(t, 16, false)
			require.Equal(t, cause.PolicyRolledBack, cause.Of(r.handler(t).RunOnce(t.Context())))
			require.Contains(t, r.consoleText(), "revoked")
			r.requireLocked(t)
			r.machine.sign(t, 17, false)
			require.NoError(t, r.handler(t).RunOnce(t.Context()))
			r.requireSecrets(t)
		})
	})
}

func TestDirectoryWithFilesIsRefused(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, os.Mkdir(r.dirs[1], 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(r.dirs[1], "old"), []byte("x"), 0o600))
	h := r.handler(t)
	err := h.Enable(t.Context())
	var check *integrity.CheckError
	require.ErrorAs(t, err, &check)
	require.ErrorContains(t, err, r.dirs[1])
	require.ErrorContains(t, err, "it holds files")
	require.NoDirExists(t, r.dirs[0], "nothing was changed")
	files, err := filepath.Glob(filepath.Join(r.state, "record-*"))
	require.NoError(t, err)
	require.Empty(t, files)
	require.False(t, strings.Contains(r.consoleText(), "compromised"))
}
