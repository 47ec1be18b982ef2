package devicekey_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func open(t testing.TB, cfg devicekey.Config) *devicekey.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "keys")
	}
	cfg.Serial = "SN19842256"
	s, err := devicekey.Open(cfg)
	require.NoError(t, err)
	return s
}

// opens checks that the store's keys open what is encrypted to cert.
func opens(t testing.TB, s *devicekey.Store, cert *x509.Certificate) bool {
	t.Helper()
	keys, err := s.Keys()
	require.NoError(t, err)
	for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
		der, err := cms.Encrypt([]byte("config"), cms.EncryptConfig{Recipients: []*x509.Certificate{cert}, Cipher: cipher})
		require.NoError(t, err)
		dir := t.TempDir()
		d, err := autoinstall.New(autoinstall.Config{
			Serial: "SN19842256", Dir: dir, Keys: keys, EncryptedOnly: true,
			Installer: autoinstall.NewFileInstaller(filepath.Join(dir, "cfg")),
		})
		require.NoError(t, err)
		if err := d.Load(t.Context(), der, autoinstall.Load{}); err != nil {
			require.ErrorIs(t, err, autoinstall.ErrDecrypt)
			return false
		}
	}
	return true
}

func TestKeysInFiles(t *testing.T) {
	for _, a := range []devicekey.Algorithm{"", devicekey.ECP384, devicekey.RSA2048, devicekey.RSA3072} {
		s := open(t, devicekey.Config{})
		_, err := s.Keys()
		require.ErrorIs(t, err, devicekey.ErrNoKey)
		cert, err := s.Generate(t.Context(), devicekey.Spec{Algorithm: a})
		require.NoError(t, err)
		require.NoError(t, cert.CheckSignatureFrom(selfCA(cert)))
		require.Equal(t, "SN19842256", cert.Subject.CommonName)
		require.False(t, cert.IsCA)
		require.True(t, opens(t, s, cert))
		_, err = s.Generate(t.Context(), devicekey.Spec{})
		require.ErrorIs(t, err, devicekey.ErrExists)
		needs, err := s.NeedsTPM()
		require.NoError(t, err)
		require.False(t, needs)
	}
}

// selfCA lets CheckSignatureFrom look at a self-signed end entity.
func selfCA(cert *x509.Certificate) *x509.Certificate {
	c := *cert
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	return &c
}

func TestKeysInATPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		for _, a := range []devicekey.Algorithm{devicekey.ECP256, devicekey.RSA2048} {
			t.Run("dual use "+string(a), func(t *testing.T) {
				s := open(t, devicekey.Config{TPM: tpm})
				cert, err := s.Generate(t.Context(), devicekey.Spec{Algorithm: a, Place: devicekey.InTPMDualUse})
				require.NoError(t, err)
				require.NoError(t, cert.CheckSignatureFrom(selfCA(cert)))
				require.True(t, opens(t, s, cert))
			})
			t.Run("decrypt only "+string(a), func(t *testing.T) {
				cfg := devicekey.Config{TPM: tpm, Dir: filepath.Join(t.TempDir(), "keys")}
				s := open(t, cfg)
				cert, err := s.Generate(t.Context(), devicekey.Spec{Algorithm: a, Place: devicekey.InTPM})
				require.NoError(t, err)
				block, err := os.ReadFile(filepath.Join(cfg.Dir, "attest.crt"))
				require.NoError(t, err)
				pool := x509.NewCertPool()
				require.True(t, pool.AppendCertsFromPEM(block))
				_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				require.NoError(t, err)
				require.True(t, opens(t, s, cert))
				// The operator's key is certified by the same attestation key.
				cert2, err := s.Generate(t.Context(), devicekey.Spec{Role: devicekey.Operator, Algorithm: a, Place: devicekey.InTPM})
				require.NoError(t, err)
				_, err = cert2.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				require.NoError(t, err)
				require.True(t, opens(t, s, cert2))

				without := open(t, devicekey.Config{Dir: cfg.Dir})
				needs, err := without.NeedsTPM()
				require.NoError(t, err)
				require.True(t, needs)
				_, err = without.Keys()
				require.ErrorIs(t, err, devicekey.ErrNoTPM)
			})
		}
		t.Run("certified by an IDevID", func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			require.NoError(t, err)
			tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "IDevID"}, NotAfter: time.Now().Add(time.Hour),
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
			der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
			require.NoError(t, err)
			idevid, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			s := open(t, devicekey.Config{TPM: tpm})
			cert, err := s.Generate(t.Context(), devicekey.Spec{Place: devicekey.InTPM, Certifier: key, CertifierCert: idevid})
			require.NoError(t, err)
			require.NoError(t, cert.CheckSignatureFrom(idevid))
			require.True(t, opens(t, s, cert))
		})
		t.Run("another TPM", func(t *testing.T) {
			cfg := devicekey.Config{TPM: tpm, Dir: filepath.Join(t.TempDir(), "keys")}
			_, err := open(t, cfg).Generate(t.Context(), devicekey.Spec{Place: devicekey.InTPMDualUse})
			require.NoError(t, err)
			cfg.TPM = tpmsim.New(t) // The in-process one exists once.
			_, err = open(t, cfg).Keys()
			require.ErrorContains(t, err, "this TPM does not load the key")
		})
	})
}

func TestReplacementPolicies(t *testing.T) {
	setup := func(t *testing.T) (*devicekey.Store, *x509.Certificate, *x509.Certificate) {
		s := open(t, devicekey.Config{})
		vendor, err := s.Generate(t.Context(), devicekey.Spec{})
		require.NoError(t, err)
		require.ErrorIs(t, s.Adopt(devicekey.Replace), devicekey.ErrNoKey)
		operator, err := s.Generate(t.Context(), devicekey.Spec{Role: devicekey.Operator})
		require.NoError(t, err)
		return s, vendor, operator
	}
	t.Run("prefer", func(t *testing.T) {
		s, vendor, operator := setup(t)
		require.NoError(t, s.Adopt(devicekey.Prefer))
		keys, err := s.Keys()
		require.NoError(t, err)
		require.Equal(t, "operator", keys[0].Name)
		require.True(t, opens(t, s, vendor))
		require.True(t, opens(t, s, operator))
		require.NoError(t, s.Reset())
		require.True(t, opens(t, s, vendor))
		require.False(t, opens(t, s, operator))
	})
	t.Run("replace", func(t *testing.T) {
		s, vendor, operator := setup(t)
		require.NoError(t, s.Adopt(devicekey.Replace))
		require.False(t, opens(t, s, vendor))
		require.True(t, opens(t, s, operator))
		require.NoError(t, s.Reset())
		require.True(t, opens(t, s, operator), "a reset leaves the only key")
		_, err := s.Certificate(devicekey.Vendor)
		require.ErrorIs(t, err, devicekey.ErrNoKey)
		_, err = s.Generate(t.Context(), devicekey.Spec{})
		require.ErrorIs(t, err, devicekey.ErrExists, "what was replaced does not come back")
	})
	t.Run("unknown", func(t *testing.T) {
		s, _, _ := setup(t)
		require.ErrorContains(t, s.Adopt("both"), `"both"`)
	})
}

func TestStopAtEveryStepOfGenerate(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) string { return filepath.Join(t.TempDir(), "keys") },
		func(dir string, w durable.Writer) error {
			s, err := devicekey.Open(devicekey.Config{Dir: dir, Serial: "SN19842256"}.WithDisk(w))
			if err != nil {
				return err
			}
			_, err = s.Generate(context.Background(), devicekey.Spec{})
			return err
		},
		func(t *testing.T, dir string, done bool) {
			s := open(t, devicekey.Config{Dir: dir})
			if _, err := s.Keys(); err != nil {
				require.False(t, done)
				require.ErrorIs(t, err, devicekey.ErrNoKey)
				_, err = s.Generate(t.Context(), devicekey.Spec{})
				require.NoError(t, err)
			}
			cert, err := s.Certificate(devicekey.Vendor)
			require.NoError(t, err)
			require.True(t, opens(t, s, cert), "key and certificate belong together")
		})
}

func TestStopAtEveryStepOfReplace(t *testing.T) {
	type world struct {
		dir      string
		operator *x509.Certificate
	}
	durabletest.EachStop(t,
		func(t *testing.T) world {
			dir := filepath.Join(t.TempDir(), "keys")
			s := open(t, devicekey.Config{Dir: dir})
			_, err := s.Generate(t.Context(), devicekey.Spec{})
			require.NoError(t, err)
			cert, err := s.Generate(t.Context(), devicekey.Spec{Role: devicekey.Operator})
			require.NoError(t, err)
			return world{dir, cert}
		},
		func(w world, disk durable.Writer) error {
			s, err := devicekey.Open(devicekey.Config{Dir: w.dir, Serial: "SN19842256"}.WithDisk(disk))
			if err != nil {
				return err
			}
			return s.Adopt(devicekey.Replace)
		},
		func(t *testing.T, w world, done bool) {
			s := open(t, devicekey.Config{Dir: w.dir})
			require.True(t, opens(t, s, w.operator))
			keys, err := s.Keys()
			require.NoError(t, err)
			if done {
				require.Len(t, keys, 1)
			}
			require.NoError(t, s.Adopt(devicekey.Replace), "again, to the end")
		})
}

func TestKeyFileThatOthersCanRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s := open(t, devicekey.Config{Dir: dir})
	_, err := s.Generate(t.Context(), devicekey.Spec{})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Join(dir, "vendor.key"), 0o644))
	_, err = s.Keys()
	require.ErrorContains(t, err, "can be read by others")
}

func TestBadSpecsAndConfig(t *testing.T) {
	_, err := devicekey.Open(devicekey.Config{Serial: "a/b"})
	require.ErrorContains(t, err, "Dir")
	require.ErrorContains(t, err, "Serial")
	s := open(t, devicekey.Config{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, spec := range map[string]devicekey.Spec{
		"role": {Role: "me"}, "algorithm": {Algorithm: "dsa"}, "place": {Place: "cloud"}, "no TPM": {Place: devicekey.InTPM}, "Certifier": {Certifier: key},
	} {
		_, err := s.Generate(t.Context(), spec)
		require.ErrorContains(t, err, name)
	}
}
