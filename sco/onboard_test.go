package sco_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
)

func deviceID(tb testing.TB, maker *authority, key crypto.Signer, serial string) sco.Signer {
	tb.Helper()
	cert := maker.issue(tb, key.Public(), func(c *x509.Certificate) { c.Subject.SerialNumber = serial })
	s, err := sco.DeviceID([]*x509.Certificate{cert}, key)
	require.NoError(tb, err)
	return s
}

func TestOnboardModesAndSoftwareEvidence(t *testing.T) {
	maker := newAuthority(t, "maker")
	keys := map[string]crypto.Signer{
		"rsa":  sharedRSA(t),
		"p256": ecKey(t, elliptic.P256()),
		"p384": ecKey(t, elliptic.P384()),
	}
	for kind, conductorKey := range keys {
		t.Run("conductor "+kind, func(t *testing.T) {
			w := newWorld(t, withKey(conductorKey))
			w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
			for _, c := range []struct {
				name   string
				mode   sco.Mode
				signer func(asset string) sco.Signer
				want   sco.EvidenceKind
				bind   string
				fails  string
			}{
				{"psk none", sco.ModePSKOnly, none, sco.EvidenceNone, "ssh-key", ""},
				{"psk self-signed", sco.ModePSKOnly, selfSigned, sco.EvidenceNone, "ssh-key", ""},
				{"psk devid", sco.ModePSKOnly, devid(t, maker, ecKey(t, elliptic.P256())), sco.EvidenceDeviceID, "device-id", ""},
				{"weak none", sco.ModeWeak, none, 0, "", "mode weak needs"},
				{"weak self-signed", sco.ModeWeak, selfSigned, sco.EvidenceSelfSigned, "ssh-key", ""},
				{"weak devid p384", sco.ModeWeak, devid(t, maker, ecKey(t, elliptic.P384())), sco.EvidenceDeviceID, "device-id", ""},
				{"weak devid of a stranger", sco.ModeWeak, devid(t, newAuthority(t, "x"), ecKey(t, elliptic.P256())), sco.EvidenceDeviceID, "device-id", ""},
				{"strong none", sco.ModeStrong, none, 0, "", "mode strong needs"},
				{"strong self-signed", sco.ModeStrong, selfSigned, 0, "", "mode strong needs"},
				{"strong devid p256", sco.ModeStrong, devid(t, maker, ecKey(t, elliptic.P256())), sco.EvidenceDeviceID, "device-id", ""},
				{"strong devid rsa", sco.ModeStrong, devid(t, maker, sharedRSA(t)), sco.EvidenceDeviceID, "device-id", ""},
				{"strong devid of a stranger", sco.ModeStrong, devid(t, newAuthority(t, "x"), ecKey(t, elliptic.P256())), 0, "", "does not chain"},
			} {
				t.Run(c.name, func(t *testing.T) {
					name := "r" + filepath.Base(t.Name())
					w.router(name, c.mode)
					asset := name + "-0"
					dir := filepath.Join(t.TempDir(), "router")
					e, err := w.onboard(dir, w.token(name), c.signer(asset))
					if c.fails != "" {
						w.refused(err, name, asset, c.fails)
						require.Equal(t, sco.StateWaiting, w.node(name, asset).Status.State)
						_, err = sco.LoadEnrollment(dir)
						require.ErrorIs(t, err, sco.ErrNotOnboarded)
						return
					}
					require.NoError(t, err)
					s := w.node(name, asset).Status
					require.Equal(t, sco.StateKeysExchanged, s.State)
					require.Equal(t, c.want, s.Evidence)
					require.Equal(t, c.bind, s.Binding.Kind)
					require.Equal(t, "X25519MLKEM768", s.TLSGroup)
					require.Empty(t, s.LastError)
					require.Equal(t, string(ssh.MarshalAuthorizedKey(e.Signer().PublicKey())), s.SSHKey+"\n")
					require.Equal(t, []string{"127.0.0.1:2222"}, e.SSHAddresses)
					require.Equal(t, w.settings.Load().SSHHostKeys, e.HostKeys)
					require.True(t, e.CA.Equal(w.ca.cert))

					again, err := sco.LoadEnrollment(dir)
					require.NoError(t, err)
					require.Equal(t, e.HostKeys, again.HostKeys)
					require.Equal(t, e.SSHAddresses, again.SSHAddresses)
					for _, f := range []string{"conductor-ca.pem", "known_hosts", "ssh_key", "enrollment.json"} {
						info, err := os.Stat(filepath.Join(dir, f))
						require.NoError(t, err)
						if f == "ssh_key" || f == "enrollment.json" {
							require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), f)
						}
					}
				})
			}
		})
	}
}

func none(string) sco.Signer       { return sco.NoDeviceKey() }
func selfSigned(string) sco.Signer { return sco.SelfSigned() }

func devid(tb testing.TB, maker *authority, key crypto.Signer) func(string) sco.Signer {
	return func(asset string) sco.Signer { return deviceID(tb, maker, key, asset) }
}

func TestStrongDeviceIDSerialNumberMustBeTheAssetID(t *testing.T) {
	maker := newAuthority(t, "maker")
	w := newWorld(t)
	w.router("r", sco.ModeStrong)
	token := w.token("r")
	key := ecKey(t, elliptic.P256())
	_, err := w.onboard(t.TempDir(), token, deviceID(t, maker, key, "r-0"))
	w.refused(err, "r", "r-0", "no manufacturer roots are configured")
	w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
	for _, serial := range []string{"", "r-1", "r-0 ", "R-0"} {
		_, err = w.onboard(t.TempDir(), token, deviceID(t, maker, key, serial))
		w.refused(err, "r", "r-0", "is not the asset-id")
	}
	_, err = w.onboard(t.TempDir(), token, deviceID(t, maker, key, "r-0"))
	require.NoError(t, err)
}

func TestDeviceIDIntermediates(t *testing.T) {
	root := newAuthority(t, "root")
	subKey := ecKey(t, elliptic.P256())
	sub := root.issue(t, subKey.Public(), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.Subject.CommonName = "sub"
	})
	maker := &authority{sub, subKey}
	key := ecKey(t, elliptic.P256())
	leaf := maker.issue(t, key.Public(), func(c *x509.Certificate) { c.Subject.SerialNumber = "r-0" })
	w := newWorld(t)
	w.router("r", sco.ModeStrong)
	w.change(func(s *sco.Settings) { s.DeviceIDRoots = root.pool() })
	dir := t.TempDir()

	alone, err := sco.DeviceID([]*x509.Certificate{leaf}, key)
	require.NoError(t, err)
	_, err = w.onboard(dir, w.token("r"), alone)
	w.refused(err, "r", "r-0", "does not chain")

	with, err := sco.DeviceID([]*x509.Certificate{leaf, sub}, key)
	require.NoError(t, err)
	_, err = w.onboard(dir, w.token("r"), with)
	require.NoError(t, err)

	// Or the conductor has it.
	w.change(func(s *sco.Settings) {
		s.DeviceIDIntermediates = x509.NewCertPool()
		s.DeviceIDIntermediates.AddCert(sub)
	})
	_, err = w.onboard(dir, w.token("r"), alone)
	require.NoError(t, err)
}

func TestDeviceIDRejectsWhatCannotWork(t *testing.T) {
	maker := newAuthority(t, "maker")
	key := ecKey(t, elliptic.P256())
	cert := maker.issue(t, key.Public(), nil)
	_, err := sco.DeviceID(nil, key)
	require.Error(t, err)
	_, err = sco.DeviceID([]*x509.Certificate{cert}, ecKey(t, elliptic.P256()))
	require.ErrorContains(t, err, "does not belong")
	_, err = sco.DeviceID([]*x509.Certificate{cert, cert, cert, cert, cert, cert}, key)
	require.ErrorContains(t, err, "at most 5")
	var k521 *ecdsa.PrivateKey = ecKey(t, elliptic.P521())
	_, err = sco.DeviceID([]*x509.Certificate{maker.issue(t, k521.Public(), nil)}, k521)
	require.ErrorContains(t, err, "P-256 or P-384")
}
