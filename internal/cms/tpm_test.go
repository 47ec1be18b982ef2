package cms_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// TestTPM decrypts what openssl wrote with keys that never leave a TPM: decrypt-only ones, certified by another key, and
// dual-use ones.
func TestTPM(t *testing.T) {
	ca := identities(t)[1]
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		dev, err := tpmkey.New(tpmkey.Config{TPM: b.New(t)})
		require.NoError(t, err)
		for _, tmpl := range []tpmkey.Template{
			tpmkey.RSA(2048, tpmkey.Decrypt), tpmkey.RSA(2048, tpmkey.Decrypt).DualUse(),
			tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt), tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt).DualUse(),
			tpmkey.ECC(elliptic.P384(), tpmkey.Decrypt),
		} {
			t.Run(tmpl.String(), func(t *testing.T) {
				blob, err := dev.Create(tmpl)
				require.NoError(t, err)
				key, err := dev.Load(blob)
				require.NoError(t, err)
				_, isRSA := key.Public().(*rsa.PublicKey)
				id := identity{"tpm", nil, certify(t, key.Public(), ca)}
				dir := t.TempDir()
				writeCert(t, filepath.Join(dir, "tpm.crt"), id.cert)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))

				var seam any
				options := [][]string{{"-keyopt", "ecdh_kdf_md:sha1"}, {"-keyopt", "ecdh_kdf_md:sha384"}}
				if isRSA {
					seam, err = key.Decrypter()
					options = [][]string{nil, {"-keyopt", "rsa_padding_mode:oaep"},
						{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha1", "-keyopt", "rsa_oaep_label:6c"}}
				} else {
					seam, err = key.KeyExchanger()
				}
				require.NoError(t, err)
				d := newDecrypter(t, seam, id)
				for _, cipher := range []string{"-aes-256-cbc", "-aes-256-gcm"} {
					for _, opts := range options {
						args := append([]string{"cms", "-encrypt", "-binary", cipher, "-in", "cfg", "-outform", "PEM", "-stream", "-recip", "tpm.crt"}, opts...)
						m, err := d.DecryptBytes(openssl(t, dir, args...))
						require.NoError(t, err, "%v", args)
						require.Equal(t, unixConfig, m.Content)
					}
				}
				for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
					der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id), Cipher: cipher})
					require.NoError(t, err)
					m, err := d.DecryptBytes(der)
					require.NoError(t, err)
					require.Equal(t, unixConfig, m.Content)
					if isRSA && cipher == cms.AES256GCM {
						_, err := d.DecryptBytes(replaceKey(t, der, make([]byte, 256)))
						require.Same(t, cms.ErrDecrypt, err)
					}
				}
				// The key is there and the TPM is not willing: that is said, and is no failed decryption.
				require.NoError(t, key.Close())
				der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
				require.NoError(t, err)
				_, err = d.DecryptBytes(der)
				require.ErrorIs(t, err, cms.ErrKeyUnavailable)
				require.ErrorIs(t, err, tpmkey.ErrClosed)
			})
		}
	})
}

// certify makes a certificate for a key that cannot sign its own.
func certify(t *testing.T, pub crypto.PublicKey, ca identity) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "SN-tpm"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}
