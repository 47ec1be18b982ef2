package integrity_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/fscrypt"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmdev"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// BenchmarkColdStart measures from the start of the unlocking to one file read in
// each directory: ours; the bare TPM commands and ioctls without a check of
// anything; and tpm2_unseal with fscrypt unlock, once for each directory as
// "fscrypt encrypt" makes them, and once for all where the directories were made
// to share a policy. All work on the same swtpm and the same file system, one
// after the other in each iteration; the medians are reported, and their ratios.
func BenchmarkColdStart(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("directories=%d", n), func(b *testing.B) { coldStart(b, n) })
	}
}

type contest struct {
	disk   *ext4Disk
	tpm    *tpmsim.TPM
	dirs   []string
	state  string
	bare   bareSetup
	shared theirSetup
	each   theirSetup
}

func coldStart(b *testing.B, n int) {
	c := &contest{disk: newExt4(b, 64<<20), tpm: tpmsim.New(b)}
	c.ours(b, n)
	c.bare.prepare(b, c, n)
	c.shared.prepare(b, c, n, false)
	c.each.prepare(b, c, n, true)
	var ours, bare, shared, each []time.Duration
	for range b.N {
		c.lockAll(b)
		ours = append(ours, timed(b, c.runOurs))
		c.lockAll(b)
		bare = append(bare, timed(b, func(tb testing.TB) { c.bare.run(tb, c) }))
		c.lockAll(b)
		shared = append(shared, timed(b, c.shared.run))
		c.lockAll(b)
		each = append(each, timed(b, c.each.run))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(ours), "ours-ms")
	b.ReportMetric(ms(bare), "bare-ms")
	b.ReportMetric(ms(shared), "tools-shared-ms")
	b.ReportMetric(ms(each), "tools-ms")
	b.ReportMetric(ms(ours)/ms(bare), "ours/bare")
	b.ReportMetric(ms(ours)/ms(shared), "ours/tools-shared")
	b.ReportMetric(ms(ours)/ms(each), "ours/tools")
}

func timed(tb testing.TB, f func(testing.TB)) time.Duration {
	start := time.Now()
	f(tb)
	return time.Since(start)
}

func ms(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}

func names(root, kind string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = filepath.Join(root, kind, fmt.Sprintf("directory-%03d", i))
	}
	return out
}

func (c *contest) config(tb testing.TB) integrity.Config {
	w, err := tpmwrap.NewSealed(tpmwrap.Config{
		Open:   func(context.Context) (transport.TPMCloser, error) { return held{c.tpm}, nil },
		Policy: tpmwrap.Policy{PCRs: []uint{7}, NoCap: true},
	})
	require.NoError(tb, err)
	return integrity.Config{Wrapper: w, StateDir: c.state, Directories: c.dirs, Kernel: c.disk}
}

func (c *contest) ours(tb testing.TB, n int) {
	c.state = filepath.Join(tb.TempDir(), "state")
	c.dirs = names(c.disk.Mount, "ours", n)
	h, err := integrity.New(c.config(tb))
	require.NoError(tb, err)
	require.NoError(tb, h.Enable(context.Background()))
	writeFiles(tb, c.dirs)
}

func writeFiles(tb testing.TB, dirs []string) {
	for _, d := range dirs {
		require.NoError(tb, os.WriteFile(filepath.Join(d, "file"), []byte(secret), 0o600))
	}
}

// readFirst is where "readable" is measured for all three alike.
func readFirst(tb testing.TB, dirs []string) {
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(d, "file"))
		require.NoError(tb, err)
		require.Equal(tb, secret, string(data))
	}
}

func (c *contest) runOurs(tb testing.TB) {
	h, err := integrity.New(c.config(tb))
	require.NoError(tb, err)
	require.NoError(tb, h.Unlock(context.Background()))
	readFirst(tb, c.dirs)
}

// lockAll is the cold state: file system mounted anew, no keys, TPM idle.
func (c *contest) lockAll(tb testing.TB) {
	tb.Helper()
	c.disk.Down(tb)
	c.disk.Up(tb)
	// tpm2-tools leave their object in a TPM without a resource manager.
	for first := uint32(0x80000000); first < 0x80000003; first++ {
		_, _ = tpm2.FlushContext{FlushHandle: tpm2.TPMHandle(first)}.Execute(c.tpm)
	}
}

// bareSetup is a key sealed by go-tpm to PCR 7, and directories under it.
type bareSetup struct {
	dirs            []string
	public          tpm2.TPM2BPublic
	private         tpm2.TPM2BPrivate
	parent          tpm2.NamedHandle
	parentPublic    tpm2.TPMTPublic
	objectName      tpm2.TPM2BName
	selection       tpm2.TPMLPCRSelection
	identifierOfKey fscrypt.Identifier
}

func (s *bareSetup) prepare(tb testing.TB, c *contest, n int) {
	s.dirs = names(c.disk.Mount, "bare", n)
	key := []byte(strings.Repeat("k", 32))
	pub, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81000001)}.Execute(c.tpm)
	require.NoError(tb, err)
	contents, err := pub.OutPublic.Contents()
	require.NoError(tb, err)
	s.parent, s.parentPublic = tpm2.NamedHandle{Handle: 0x81000001, Name: pub.Name}, *contents
	s.selection = tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(7)}}}
	trial, end, err := tpm2.PolicySession(c.tpm, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	require.NoError(tb, err)
	_, err = tpm2.PolicyPCR{PolicySession: trial.Handle(), Pcrs: s.selection}.Execute(c.tpm)
	require.NoError(tb, err)
	digest, err := tpm2.PolicyGetDigest{PolicySession: trial.Handle()}.Execute(c.tpm)
	require.NoError(tb, err)
	require.NoError(tb, end())
	created, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: s.parent.Handle, Name: s.parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
			AuthPolicy:       digest.PolicyDigest,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
				Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
			}),
		}),
	}.Execute(c.tpm)
	require.NoError(tb, err)
	s.public, s.private = created.OutPublic, created.OutPrivate
	obj, err := created.OutPublic.Contents()
	require.NoError(tb, err)
	name, err := tpm2.ObjectName(obj)
	require.NoError(tb, err)
	s.objectName = *name
	s.identifierOfKey, err = fscrypt.Identify(key)
	require.NoError(tb, err)
	for _, d := range s.dirs {
		require.NoError(tb, os.MkdirAll(d, 0o700))
		require.NoError(tb, fscrypt.SetPolicy(c.disk, d, fscrypt.NewPolicy(s.identifierOfKey)))
	}
	_, err = fscrypt.AddKey(c.disk, c.disk.Mount, key)
	require.NoError(tb, err)
	writeFiles(tb, s.dirs)
}

// run is the least that gives a key out in an encrypted session: the parent's
// public key, a salted session, the policy, the object, the key, one ioctl.
func (s *bareSetup) run(tb testing.TB, c *contest) {
	pub, err := tpm2.ReadPublic{ObjectHandle: s.parent.Handle}.Execute(c.tpm)
	require.NoError(tb, err)
	require.Equal(tb, s.parent.Name, pub.Name)
	session, end, err := tpm2.PolicySession(c.tpm, tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(s.parent.Handle, s.parentPublic), tpm2.AESEncryption(128, tpm2.EncryptOut))
	require.NoError(tb, err)
	_, err = tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: s.selection}.Execute(c.tpm)
	require.NoError(tb, err)
	obj, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: s.parent.Handle, Name: s.parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    s.private, InPublic: s.public,
	}.Execute(c.tpm)
	require.NoError(tb, err)
	key, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: obj.ObjectHandle, Name: s.objectName, Auth: session}}.Execute(c.tpm)
	require.NoError(tb, err)
	_, err = tpm2.FlushContext{FlushHandle: obj.ObjectHandle}.Execute(c.tpm)
	require.NoError(tb, err)
	require.NoError(tb, end())
	_, err = fscrypt.AddKey(c.disk, c.disk.Mount, key.OutData.Buffer)
	require.NoError(tb, err)
	readFirst(tb, s.dirs)
}

// theirSetup is a key sealed by tpm2-tools to PCR 7, which is the raw key
// protector of directories that the fscrypt tool made.
type theirSetup struct {
	tool   *tool
	dirs   []string
	unlock []string
	dir    string
	tcti   string
	script string
}

func (s *theirSetup) prepare(tb testing.TB, c *contest, n int, each bool) {
	s.tool, s.dir = newTool(tb), tb.TempDir()
	s.dirs = names(c.disk.Mount, fmt.Sprintf("tools-%v", each), n)
	s.tcti = "swtpm:path=" + strings.TrimPrefix(c.tpm.Spec(), tpmdev.SocketPrefix)
	key := filepath.Join(s.dir, "key")
	require.NoError(tb, os.WriteFile(key, []byte(strings.Repeat("t", 32)), 0o600))
	s.tpm2(tb, "tpm2_startauthsession", "-S", "session")
	s.tpm2(tb, "tpm2_policypcr", "-S", "session", "-l", "sha256:7", "-L", "policy")
	s.tpm2(tb, "tpm2_flushcontext", "session")
	s.tpm2(tb, "tpm2_create", "-C", "0x81000001", "-i", "key", "-u", "public", "-r", "private", "-L", "policy")
	if !each {
		s.tool.run(tb, "setup", c.disk.Mount, "--quiet")
	}
	protector := ""
	for i, d := range s.dirs {
		require.NoError(tb, os.MkdirAll(d, 0o700))
		if i == 0 {
			before := protectors(c)
			s.tool.run(tb, "encrypt", d, "--source=raw_key", "--key="+key, fmt.Sprintf("--name=tpm-%v", each), "--user=root", "--quiet")
			for _, p := range protectors(c) {
				if !slices.Contains(before, p) {
					protector = p
				}
			}
			continue
		}
		if each {
			s.tool.run(tb, "encrypt", d, "--protector="+c.disk.Mount+":"+protector, "--key="+key, "--quiet")
			continue
		}
		// One policy for all, so that the tool needs one key as well.
		p, err := fscrypt.GetPolicy(c.disk, s.dirs[0])
		require.NoError(tb, err)
		require.NoError(tb, fscrypt.SetPolicy(c.disk, d, p))
	}
	writeFiles(tb, s.dirs)
	require.NoError(tb, os.Remove(key))
	// One name space for the whole run, as on a machine whose /etc is ready.
	s.script = `mount --bind "$ETC" /etc || exit 1
tpm2_load -Q -C 0x81000001 -u public -r private -c object || exit 1
tpm2_unseal -Q -c object -p pcr:sha256:7 -o key || exit 1
for dir in $DIRS; do "$FSCRYPT" unlock "$dir" --key=key --quiet || exit 1; done`
	s.unlock = s.dirs
	if !each {
		s.unlock = s.dirs[:1]
	}
}

func protectors(c *contest) []string {
	entries, _ := os.ReadDir(filepath.Join(c.disk.Mount, ".fscrypt", "protectors"))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (s *theirSetup) tpm2(tb testing.TB, name string, args ...string) {
	tb.Helper()
	cmd := exec.Command(peer.Need(tb, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+s.tcti)
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s: %s", name, out)
}

func (s *theirSetup) run(tb testing.TB) {
	cmd := exec.Command(s.tool.unshare, "--mount", "sh", "-c", s.script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+s.tcti, "ETC="+s.tool.etc, "FSCRYPT="+s.tool.fscrypt, "DIRS="+strings.Join(s.unlock, " "))
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s", out)
	readFirst(tb, s.dirs)
}
