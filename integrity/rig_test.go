package integrity_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/integritytest"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// boot is the kind of boot policy of a test.
type boot string

const (
	bootNone    boot = "none"
	bootLiteral boot = "literal"
	bootSigned  boot = "signed"
)

// machine is a TPM with the things that happen to one.
type machine interface {
	wrapper(t *testing.T, b boot) integrity.KeyWrapper
	reset(t *testing.T)
	clear(t *testing.T)
	extend(t *testing.T, pcr uint)
	forgetAnchor(t *testing.T)
	// sign installs a policy for the present boot state.
	sign(t *testing.T, number uint64, forged bool)
	unsign(t *testing.T)
	revoke(t *testing.T, number uint64)
}

// disk is a file system with the things that happen to one.
type disk interface {
	fscrypt.Kernel
	root() string
	// restart does what a power cycle does: the keys are gone.
	restart(t *testing.T)
	// raw is everything that somebody with the disk can read.
	raw(t *testing.T) []byte
	move(t *testing.T, from, to string)
	// cover puts a file system that cannot encrypt over a directory.
	cover(t *testing.T, dir string) (uncover func())
}

var policyPCRs = []uint{7, 11}

type fakeMachine struct {
	*integritytest.TPM
	mu     sync.Mutex
	signed *integritytest.Signed
}

func newFakeMachine(*testing.T) machine { return &fakeMachine{TPM: integritytest.NewTPM()} }

func (m *fakeMachine) wrapper(_ *testing.T, b boot) integrity.KeyWrapper {
	w := &integritytest.Wrapper{TPM: m.TPM}
	switch b {
	case bootLiteral:
		w.PCRs = policyPCRs
	case bootSigned:
		w.Policy = func() (integritytest.Signed, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.signed == nil {
				return integritytest.Signed{}, fs.ErrNotExist
			}
			return *m.signed, nil
		}
	}
	return w
}
func (m *fakeMachine) reset(*testing.T)              { m.Reset() }
func (m *fakeMachine) clear(*testing.T)              { m.Clear() }
func (m *fakeMachine) extend(_ *testing.T, pcr uint) { m.Extend(pcr, "other firmware") }
func (m *fakeMachine) forgetAnchor(*testing.T)       { m.ForgetAnchor() }
func (m *fakeMachine) revoke(_ *testing.T, n uint64) { m.Revoke(n) }
func (m *fakeMachine) unsign(*testing.T)             { m.signed = nil }
func (m *fakeMachine) sign(_ *testing.T, n uint64, forged bool) {
	m.signed = &integritytest.Signed{Number: n, Forged: forged, PCRs: map[uint][32]byte{}}
	for _, p := range policyPCRs {
		m.signed.PCRs[p] = m.PCR(p)
	}
}

type simMachine struct {
	*tpmsim.TPM
	vendor *ecdsa.PrivateKey
	policy string
}

func newSimMachine(b tpmsim.Backend) func(t *testing.T) machine {
	return func(t *testing.T) machine {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return &simMachine{TPM: b.New(t), vendor: key, policy: filepath.Join(t.TempDir(), "policy.json")}
	}
}

// held keeps a simulated TPM running when a wrapper closes it.
type held struct{ transport.TPM }

func (held) Close() error { return nil }

func (m *simMachine) config(b boot) tpmwrap.Config {
	cfg := tpmwrap.Config{Open: func(context.Context) (transport.TPMCloser, error) { return held{m.TPM}, nil }}
	switch b {
	case bootLiteral:
		cfg.Policy.PCRs = policyPCRs
	case bootSigned:
		cfg.Policy.Vendor = m.vendor.Public()
		cfg.Policy.Reference = "acme-router"
		cfg.Policy.Document = func() ([]byte, error) { return os.ReadFile(m.policy) }
	}
	return cfg
}

func (m *simMachine) wrapper(t *testing.T, b boot) integrity.KeyWrapper {
	w, err := tpmwrap.NewSealed(m.config(b))
	require.NoError(t, err)
	return w
}

func (m *simMachine) reset(t *testing.T) { require.NoError(t, m.Reset()) }
func (m *simMachine) clear(t *testing.T) { require.NoError(t, m.Clear()) }
func (m *simMachine) extend(t *testing.T, pcr uint) {
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(m)
	require.NoError(t, err)
}

func (m *simMachine) forgetAnchor(t *testing.T) {
	// That of a literal policy.
	const index = tpm2.TPMHandle(tpmwrap.DefaultAnchorIndex + 1)
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(m)
	require.NoError(t, err)
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
	}.Execute(m)
	require.NoError(t, err)
}

func (m *simMachine) sign(t *testing.T, number uint64, forged bool) {
	state, err := tpmwrap.State(t.Context(), m, pcrpolicy.SHA256, policyPCRs)
	require.NoError(t, err)
	state.Number = number
	doc, err := pcrpolicy.Make("acme-router", 0, state)
	require.NoError(t, err)
	var signer crypto.Signer = m.vendor
	if forged {
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
	}
	require.NoError(t, doc.Sign(signer))
	data, err := doc.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(m.policy, data, 0o600))
}
func (m *simMachine) unsign(t *testing.T) { require.NoError(t, os.Remove(m.policy)) }
func (m *simMachine) revoke(t *testing.T, number uint64) {
	// Only who opened something may revoke.
	cfg := m.config(bootSigned)
	cfg.AnchorIndex = 0x018d0300
	w, err := tpmwrap.NewSealed(cfg)
	require.NoError(t, err)
	key, binding := make([]byte, 32), make([]byte, 32)
	wrapped, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	_, err = w.Unwrap(t.Context(), wrapped, binding, key)
	require.NoError(t, err)
	require.NoError(t, w.Revoke(t.Context(), number))
}

type fakeDisk struct {
	*integritytest.Kernel
	dir string
}

func newFakeDisk(t *testing.T) disk {
	dir := t.TempDir()
	return &fakeDisk{Kernel: integritytest.NewKernel(dir), dir: dir}
}

func (d *fakeDisk) root() string                       { return d.dir }
func (d *fakeDisk) restart(t *testing.T)               { require.NoError(t, d.Reboot()) }
func (d *fakeDisk) move(t *testing.T, from, to string) { require.NoError(t, d.Move(from, to)) }
func (d *fakeDisk) cover(*testing.T, string) func() {
	d.SetUnsupported(true)
	return func() { d.SetUnsupported(false) }
}
func (d *fakeDisk) raw(t *testing.T) []byte {
	var out bytes.Buffer
	require.NoError(t, filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		out.WriteString(e.Name())
		if e.Type().IsRegular() {
			data, err := os.ReadFile(path)
			out.Write(data)
			return err
		}
		return nil
	}))
	return out.Bytes()
}

// gate is a network that says what it was told.
type gate struct {
	mu      sync.Mutex
	allowed bool
	blocked int
}

func (g *gate) Block(context.Context, string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allowed = false
	g.blocked++
	return nil
}

func (g *gate) Allow(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allowed = true
	return nil
}

func (g *gate) isAllowed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.allowed
}

// notes is a service manager that says what it was told.
type notes struct {
	mu  sync.Mutex
	got []string
}

func (n *notes) notify(s string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, s)
	return nil
}

func (n *notes) ready() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.got, func(s string) bool { return strings.HasPrefix(s, "READY=1") })
}

// rig is a router on a bench.
type rig struct {
	disk    disk
	machine machine
	boot    boot
	mode    integrity.Mode
	state   string
	console string
	dirs    []string
	gate    gate
	notes   notes
}

func newRig(t *testing.T, d disk, m machine, b boot, mode integrity.Mode) *rig {
	dir := t.TempDir()
	r := &rig{disk: d, machine: m, boot: b, mode: mode, state: filepath.Join(dir, "state"), console: filepath.Join(dir, "console")}
	for _, name := range []string{"config", "keys", "data"} {
		r.dirs = append(r.dirs, filepath.Join(d.root(), name))
	}
	return r
}

func (r *rig) config(t *testing.T) integrity.Config {
	return integrity.Config{
		Wrapper: r.machine.wrapper(t, r.boot), StateDir: r.state, Directories: r.dirs, Mode: r.mode, Kernel: r.disk,
		Emergency: integrity.Consoles{KernelLog: "-", Paths: []string{r.console}},
		Network:   &r.gate, Notify: r.notes.notify,
	}
}

// handler returns a handler as a process that starts anew has it.
func (r *rig) handler(t *testing.T) *integrity.Handler {
	t.Helper()
	h, err := integrity.New(r.config(t))
	require.NoError(t, err)
	return h
}

// powerCycle restarts the machine.
func (r *rig) powerCycle(t *testing.T) {
	t.Helper()
	r.disk.restart(t)
	r.machine.reset(t)
	require.NoError(t, os.RemoveAll(r.console))
	r.gate.allowed = false
	r.notes.got = nil
}

const secret = "the-secret-of-the-router-0123456789abcdef"

func (r *rig) writeSecrets(t *testing.T) {
	t.Helper()
	for _, d := range r.dirs {
		require.NoError(t, os.WriteFile(filepath.Join(d, "name-that-is-secret.conf"), []byte(strings.Repeat(secret, 300)), 0o600))
	}
}

func (r *rig) requireSecrets(t *testing.T) {
	t.Helper()
	for _, d := range r.dirs {
		data, err := os.ReadFile(filepath.Join(d, "name-that-is-secret.conf"))
		require.NoError(t, err)
		require.Equal(t, strings.Repeat(secret, 300), string(data))
	}
}

func (r *rig) requireLocked(t *testing.T) {
	t.Helper()
	for _, d := range r.dirs {
		_, err := os.ReadFile(filepath.Join(d, "name-that-is-secret.conf"))
		require.Error(t, err, d)
	}
}

func (r *rig) consoleText() string {
	data, err := os.ReadFile(r.console)
	if err != nil {
		return fmt.Sprintf("(no console: %v)", err)
	}
	return string(data)
}
