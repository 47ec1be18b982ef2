package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/peer"
)

func vendorOrder(dir string, disk durable.Writer) *keyOrder {
	return &keyOrder{dir: dir, serial: "SN1", disk: disk, spec: devicekey.Spec{Role: devicekey.Vendor, Algorithm: devicekey.ECP256, Place: devicekey.InFile}}
}

func operatorOrder(dir string, disk durable.Writer) *keyOrder {
	o := vendorOrder(dir, disk)
	o.spec.Role, o.policy = devicekey.Operator, devicekey.Replace
	return o
}

// keyNames opens the keys as run does.
func keyNames(t *testing.T, dir string) []string {
	t.Helper()
	p, err := loadProfile(dir, "SN1")
	require.NoError(t, err)
	cfg, closer, err := config(dir, p, policy{encryptedOnly: true})
	require.NoError(t, err)
	defer closer.Close()
	var names []string
	for _, k := range cfg.Keys {
		names = append(names, k.Name)
	}
	return names
}

// completes makes the same call once more and looks at what it leaves.
func completes(t *testing.T, dir, cert, key string, args ...string) {
	t.Helper()
	args = append([]string{"keygen", "-dir", dir, "-serial", "SN1"}, args...)
	_, err := os.Stat(filepath.Join(dir, cert))
	wasThere := err == nil
	code, _, errs := invoke(t, args...)
	if code != 0 {
		require.True(t, wasThere, errs)
		require.Contains(t, errs, "never overwritten")
	}
	code, _, errs = invoke(t, args...)
	require.Equal(t, 1, code, "what is complete is not made again")
	require.Contains(t, errs, "never overwritten")
	public, err := os.ReadFile(filepath.Join(dir, cert))
	require.NoError(t, err)
	kept, err := os.ReadFile(filepath.Join(dir, "keys", key+".crt"))
	require.NoError(t, err)
	require.Equal(t, string(kept), string(public))
	require.Equal(t, []string{key}, keyNames(t, dir))
}

func TestKeygenIsCompletedAfterAStop(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) string { return filepath.Join(t.TempDir(), "device") },
		func(dir string, w durable.Writer) error {
			_, err := vendorOrder(dir, w).make(context.Background())
			return err
		},
		func(t *testing.T, dir string, _ bool) { completes(t, dir, "SN1.crt", "vendor") })
}

func TestReplacementIsCompletedAfterAStop(t *testing.T) {
	replace := func(t *testing.T, dir string) {
		completes(t, dir, "SN1-operator.crt", "operator", "-operator", "replace")
		require.NoFileExists(t, filepath.Join(dir, "keys", "vendor.key"))
		require.NoFileExists(t, filepath.Join(dir, "keys", "vendor.crt"))
	}
	setup := func(t *testing.T) string {
		dir, _ := keygen(t, "SN1")
		return dir
	}
	durabletest.EachStop(t, setup,
		func(dir string, w durable.Writer) error {
			_, err := operatorOrder(dir, w).make(context.Background())
			return err
		},
		func(t *testing.T, dir string, _ bool) { replace(t, dir) })
	// The stops inside the key store: before, and in the middle of, the
	// destruction of the vendor's key.
	for _, gone := range [][]string{nil, {"vendor.key"}} {
		dir := setup(t)
		o := operatorOrder(dir, durable.Writer{})
		o.policy = devicekey.Prefer
		_, err := o.make(t.Context())
		require.NoError(t, err)
		for _, name := range gone {
			require.NoError(t, os.Remove(filepath.Join(dir, "keys", name)))
		}
		code, _, errs := invoke(t, "keygen", "-dir", dir, "-serial", "SN1", "-operator", "replace")
		require.Zero(t, code, errs)
		replace(t, dir)
	}
}

func TestKeygenInTPMIsCompletedAfterAStop(t *testing.T) {
	peer.Need(t, "swtpm")
	dir := filepath.Join(t.TempDir(), "device")
	o := vendorOrder(dir, durable.Writer{Before: func(step durable.Step, path string) error {
		if filepath.Base(path) == "SN1.crt" {
			return durable.ErrStopped
		}
		return nil
	}})
	o.tpm = "simulator"
	_, err := o.make(t.Context())
	require.ErrorIs(t, err, durable.ErrStopped)
	require.FileExists(t, filepath.Join(dir, "keys", "vendor.key"))
	require.Equal(t, []string{"vendor"}, keyNames(t, dir), "the key is of use without another keygen")
	code, _, errs := invoke(t, "keygen", "-dir", dir, "-serial", "SN1", "-tpm", "simulator")
	require.Zero(t, code, errs)
	completes(t, dir, "SN1.crt", "vendor")
}

func TestKeygenCompletesOnlyWhatWasOrdered(t *testing.T) {
	dir, cert := keygen(t, "SN1")
	require.NoError(t, os.Remove(cert))
	profile, err := os.ReadFile(profilePath(dir, deviceFile))
	require.NoError(t, err)
	for _, args := range [][]string{{"-algorithm", "rsa-2048"}, {"-tpm", "simulator"}} {
		if args[0] == "-tpm" {
			peer.Need(t, "swtpm")
		}
		code, _, errs := invoke(t, append([]string{"keygen", "-dir", dir, "-serial", "SN1"}, args...)...)
		require.Equal(t, 1, code, "%v: %s", args, errs)
		require.Contains(t, errs, "never overwritten")
		require.NoFileExists(t, cert)
		after, err := os.ReadFile(profilePath(dir, deviceFile))
		require.NoError(t, err)
		require.Equal(t, string(profile), string(after), "a call that is refused changes nothing")
	}
	// Nor is a key in a file taken for one in a TPM when the profile is lost,
	// which another call without -tpm makes anew.
	require.NoError(t, os.Remove(profilePath(dir, deviceFile)))
	code, _, errs := invoke(t, "keygen", "-dir", dir, "-serial", "SN1", "-tpm", "simulator")
	require.Equal(t, 1, code, errs)
	require.Contains(t, errs, "never overwritten")
	completes(t, dir, "SN1.crt", "vendor")
	code, _, errs = invoke(t, "keygen", "-dir", dir, "-serial", "SN1", "-algorithm", "frob")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "-algorithm")
}

// TestSweepMissesWhatIsWrittenWithoutTheLock has the library at work, and all
// temporary files of the device's folder removed, at every step of a write of
// this program.
func TestSweepMissesWhatIsWrittenWithoutTheLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "device")
	roots := filepath.Join(t.TempDir(), "roots")
	device, err := autoinstall.New(autoinstall.Config{Serial: "SN1", Dir: dir, Installer: autoinstall.NewFileInstaller(filepath.Join(dir, configFile))})
	require.NoError(t, err)
	swept := 0
	disk := durable.Writer{Before: func(durable.Step, string) error {
		swept++
		if err := (durable.Writer{}).Sweep(dir); err != nil {
			return err
		}
		return device.Reset(context.Background())
	}}
	require.NoError(t, os.Mkdir(dir, 0o700))
	cert, err := vendorOrder(dir, disk).make(t.Context())
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "SN1.crt"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(roots, b, 0o600))
	p, err := loadProfile(dir, "SN1")
	require.NoError(t, err)
	require.NoError(t, rememberPolicy(dir, p, policy{authenticatedOnly: true, ownerRoots: roots}, disk))
	require.Greater(t, swept, 15)
	p, err = loadProfile(dir, "SN1")
	require.NoError(t, err)
	require.True(t, p.AuthenticatedOnly && p.OwnerRoots)
	pool, _, err := readRoots(profilePath(dir, ownerFile))
	require.NoError(t, err)
	require.NotNil(t, pool)
	require.Equal(t, "SN1", cert.Subject.CommonName)
}
