package integrity_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/integritytest"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func property(t *testing.T, tpm *tpmsim.TPM, p tpm2.TPMPT) uint32 {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(tpm)
	require.NoError(t, err)
	list, err := rsp.CapabilityData.Data.TPMProperties()
	require.NoError(t, err)
	require.Len(t, list.TPMProperty, 1)
	return list.TPMProperty[0].Value
}

// TestAnHourOfRetriesDoesNotLockTheTPM lets the service fail for an hour of
// simulated time against a real TPM in a wrong boot state.
func TestAnHourOfRetriesDoesNotLockTheTPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		m := newSimMachine(b)(t)
		sim, _ := m.(*simMachine)
		r := newRig(t, newFakeDisk(t), m, bootLiteral, integrity.ModeDirect)
		require.NoError(t, r.handler(t).Enable(t.Context()))
		r.writeSecrets(t)
		r.powerCycle(t)
		r.machine.extend(t, 7)
		cfg := r.config(t)
		synctest.Test(t, func(t *testing.T) {
			h, err := integrity.New(cfg)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			require.NoError(t, h.Run(ctx))
		})
		events := strings.Count(r.consoleText(), "EMERGENCY")
		require.Greater(t, events, 10, "each attempt writes it again")
		require.Less(t, events, 40, "the waits grow")
		require.False(t, r.gate.isAllowed())
		require.False(t, r.notes.ready())
		require.Zero(t, property(t, sim.TPM, tpm2.TPMPTLockoutCounter))
		require.Zero(t, property(t, sim.TPM, tpm2.TPMPTPermanent)&(1<<9), "not in lockout")
		r.powerCycle(t)
		require.NoError(t, r.handler(t).RunOnce(t.Context()))
		r.requireSecrets(t)
	})
}

// sinks are alarms and events that remember.
type sinks struct {
	mu     sync.Mutex
	alarms []mooring.Alarm
	events []mooring.Event
}

func (s *sinks) SetAlarm(_ context.Context, a mooring.Alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alarms = append(s.alarms, a)
}

func (s *sinks) RecordEvent(_ context.Context, e mooring.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func TestRunRecoversAndWatches(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	m, _ := r.machine.(*fakeMachine)
	disk, _ := r.disk.(*fakeDisk)
	var s sinks
	cfg := r.config(t)
	cfg.Alarms, cfg.Events, cfg.Node, cfg.EnableOnFirstRun = &s, &s, "node0", true
	synctest.Test(t, func(t *testing.T) {
		h, err := integrity.New(cfg)
		require.NoError(t, err)
		m.Fail(cause.New(cause.NoTPM, errors.New("no device")))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()

		time.Sleep(2 * time.Second)
		require.False(t, r.gate.isAllowed())
		require.Contains(t, r.consoleText(), "the TPM cannot be reached")
		require.Greater(t, m.Commands(), 2, "what may pass is tried again before it counts")
		m.Fail(nil)
		time.Sleep(10 * time.Second)
		require.True(t, r.gate.isAllowed(), "enabled at the first run, and open")
		require.True(t, r.notes.ready())

		// Somebody locks a directory under the feet of the service.
		require.NoError(t, disk.Reboot())
		time.Sleep(11 * time.Second)
		require.Contains(t, r.consoleText(), string(cause.DirectoryUnreadable))
		time.Sleep(10 * time.Second)
		require.True(t, r.gate.isAllowed(), "opened again")

		cancel()
		require.NoError(t, <-done)
	})
	require.Equal(t, "STOPPING=1", r.notes.got[len(r.notes.got)-1])
	require.True(t, s.alarms[0].Active())
	require.Equal(t, mooring.SeverityCritical, s.alarms[0].Severity)
	require.False(t, s.alarms[len(s.alarms)-1].Active())
	kinds := make([]string, 0, len(s.events))
	for _, e := range s.events {
		require.Equal(t, "node0", e.Node)
		kinds = append(kinds, e.Type)
	}
	for _, want := range []string{"system.integrity_event", "system.enable_integrity", "system.integrity_verified"} {
		require.True(t, slices.Contains(kinds, want), want)
	}
}

func TestEveryTPMFailureHasItsEmergency(t *testing.T) {
	for _, code := range []cause.Code{cause.NoTPM, cause.Timeout, cause.Lockout, cause.TPMFailed} {
		t.Run(string(code), func(t *testing.T) {
			r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
			require.NoError(t, r.handler(t).Enable(t.Context()))
			r.writeSecrets(t)
			m, _ := r.machine.(*fakeMachine)
			requireEvent(t, r, attack{string(code), code, func(*testing.T, *rig) func() {
				m.Fail(cause.New(code, errors.New("injected")))
				return func() { m.Fail(nil) }
			}})
		})
	}
}

func TestKernelFailuresOpenNothing(t *testing.T) {
	for request, want := range map[uint]cause.Code{fscrypt.RequestAddKey: cause.Kernel, fscrypt.RequestGetPolicy: cause.Kernel} {
		r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
		require.NoError(t, r.handler(t).Enable(t.Context()))
		r.writeSecrets(t)
		r.powerCycle(t)
		disk, _ := r.disk.(*fakeDisk)
		disk.Fail(request, os.ErrPermission)
		require.Equal(t, want, cause.Of(r.handler(t).RunOnce(t.Context())))
		r.requireLocked(t)
		disk.Fail(request, nil)
		require.NoError(t, r.handler(t).RunOnce(t.Context()))
		r.requireSecrets(t)
	}
}

func TestEnabledSystemWithoutStateIsNotNew(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	r.powerCycle(t)
	require.NoError(t, os.RemoveAll(r.state))
	cfg := r.config(t)
	cfg.EnableOnFirstRun = true
	h, err := integrity.New(cfg)
	require.NoError(t, err)
	require.Equal(t, cause.StateMissing, cause.Of(h.RunOnce(t.Context())))
	require.Equal(t, cause.StateMissing, cause.Of(h.Enable(t.Context())))
	m, _ := r.machine.(*fakeMachine)
	m.ForgetAnchor()
	require.Equal(t, cause.StateMissing, cause.Of(h.RunOnce(t.Context())), "encrypted directories tell as much as the anchor")
	var check *integrity.CheckError
	require.ErrorAs(t, h.Enable(t.Context()), &check)
}

func TestOtherDirectoriesThanEnabledAreRefused(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	cfg := r.config(t)
	cfg.Directories = append(cfg.Directories, r.disk.root()+"/more")
	h, err := integrity.New(cfg)
	require.NoError(t, err)
	require.Equal(t, cause.ConfigChanged, cause.Of(h.RunOnce(t.Context())))
	require.NotContains(t, r.consoleText(), "Only a clean install")
	cfg = r.config(t)
	cfg.Mode = integrity.ModeCompat
	h, err = integrity.New(cfg)
	require.NoError(t, err)
	require.Equal(t, cause.ConfigChanged, cause.Of(h.RunOnce(t.Context())))
	require.False(t, cause.ConfigChanged.Final())
	// Undoing the change is all that it takes.
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
}

func TestCheckAlwaysHasAList(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, os.MkdirAll(r.state, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(r.state, "record-a"), []byte("damaged"), 0o600))
	unmet := func(h *integrity.Handler) []string {
		findings, err := h.Check(t.Context())
		require.NoError(t, err)
		require.Greater(t, len(findings), 3, "everything else is looked at as well")
		var out []string
		for _, f := range findings {
			if !f.OK {
				require.NotEmpty(t, f.Detail)
				out = append(out, f.Requirement)
			}
		}
		return out
	}
	require.Equal(t, []string{"no damaged record"}, unmet(r.handler(t)))
	cfg := r.config(t)
	cfg.StateDir = filepath.Join(r.state, "record-a", "below")
	h, err := integrity.New(cfg)
	require.NoError(t, err)
	require.Equal(t, []string{"state directory can be written", "state directory can be used"}, unmet(h))
}

func TestConfigMistakesAreReportedAtOnce(t *testing.T) {
	_, err := integrity.New(integrity.Config{StateDir: "state", Directories: []string{"/a/b", "/a"}, Mode: "none", RetryMin: -1})
	for _, want := range []string{"Wrapper is nil", "StateDir", `"/a/b" is inside of "/a"`, "mode is direct or compat", "negative"} {
		require.ErrorContains(t, err, want)
	}
	_, err = integrity.New(integrity.Config{Wrapper: &integritytest.Wrapper{}, StateDir: "/a/b", Directories: []string{"/a"}})
	require.ErrorContains(t, err, "StateDir and Directories")
}

func TestEmergencyTextOfEveryCause(t *testing.T) {
	for _, code := range cause.Codes() {
		text := integrity.EmergencyText(cause.At(code, "/config\nfake line", nil))
		require.Contains(t, text, string(code))
		require.Contains(t, text, code.Text())
		require.Contains(t, text, "clean install or an RMA")
		require.NotContains(t, text, "\nfake line")
		require.True(t, strings.HasSuffix(text, "\n"))
		require.Less(t, len(text), 1000)
	}
	require.Contains(t, integrity.EmergencyText(errors.New("x")), "(unknown)")
}

// TestTheKeyIsNeverOnTheWire looks at every byte between this process and the
// TPM over the whole life of a system, and at every file of the state.
func TestTheKeyIsNeverOnTheWire(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for _, bt := range []boot{bootNone, bootLiteral, bootSigned} {
			t.Run(string(bt), func(t *testing.T) {
				m := newSimMachine(b)(t)
				sim, _ := m.(*simMachine)
				var wire bytes.Buffer
				sessions := 0
				sim.Wire(func(cmd, rsp []byte) {
					wire.Write(cmd)
					wire.Write(rsp)
					if tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) == tpm2.TPMCCStartAuthSession {
						sessions++
						require.NotEqual(t, tpm2.TPMRHNull, tpm2.TPMHandle(binary.BigEndian.Uint32(cmd[10:])), "a session without salt")
					}
				})
				if bt == bootSigned {
					m.sign(t, 16, false)
				}
				disk := &spyKernel{Kernel: newFakeDisk(t)}
				r := newRig(t, disk, m, bt, integrity.ModeDirect)
				require.NoError(t, r.handler(t).Enable(t.Context()))
				r.writeSecrets(t)
				r.powerCycle(t)
				require.NoError(t, r.handler(t).RunOnce(t.Context()))
				r.powerCycle(t)
				require.NoError(t, r.handler(t).Rewrap(t.Context(), m.wrapper(t, bt)))
				require.Greater(t, wire.Len(), 5000)
				require.Greater(t, sessions, 3)
				key := disk.last()
				require.Len(t, key, integrity.KeySize)
				for n := 0; n+8 <= len(key); n += 8 {
					require.False(t, bytes.Contains(wire.Bytes(), key[n:n+8]), "part of the key was seen")
				}
			})
		}
	})
}

// spyKernel keeps the last key that the kernel got.
type spyKernel struct {
	Kernel disk
	mu     sync.Mutex
	key    []byte
}

func (s *spyKernel) Ioctl(dir string, request uint, arg []byte) error {
	if request == fscrypt.RequestAddKey {
		s.mu.Lock()
		// A check tries throw-away keys before; the last one is the real one.
		s.key = append([]byte(nil), arg[80:]...)
		s.mu.Unlock()
	}
	return s.Kernel.Ioctl(dir, request, arg)
}

func (s *spyKernel) last() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

func (s *spyKernel) Device(path string) (uint64, error)    { return s.Kernel.Device(path) }
func (s *spyKernel) Probe(dir string) error                { return s.Kernel.Probe(dir) }
func (s *spyKernel) root() string                          { return s.Kernel.root() }
func (s *spyKernel) restart(t *testing.T)                  { s.Kernel.restart(t) }
func (s *spyKernel) raw(t *testing.T) []byte               { return s.Kernel.raw(t) }
func (s *spyKernel) move(t *testing.T, from, to string)    { s.Kernel.move(t, from, to) }
func (s *spyKernel) cover(t *testing.T, dir string) func() { return s.Kernel.cover(t, dir) }

// TestFirstBootIsCappedToo enables and runs in one boot, and restarts the service
// in it.
func TestFirstBootIsCappedToo(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootLiteral, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	r.writeSecrets(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()), "open already, and the key was still to be had")
	require.NoError(t, r.handler(t).RunOnce(t.Context()), "open already, and capped")
	undo := swap(r, func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(dir, 0o700)) })(t, r)
	require.Equal(t, cause.DirectoryPlain, cause.Of(r.handler(t).RunOnce(t.Context())), "named although the key is withheld")
	undo()
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	require.NoError(t, r.handler(t).Lock(t.Context()))
	require.Equal(t, cause.Capped, cause.Of(r.handler(t).RunOnce(t.Context())))
	r.requireLocked(t)
	r.powerCycle(t)
	require.NoError(t, r.handler(t).RunOnce(t.Context()))
	r.requireSecrets(t)
}
