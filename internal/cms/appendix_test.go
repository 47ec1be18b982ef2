package cms_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/peer"
)

// readKey reads a key that openssl made, and its certificate.
func readKey(t *testing.T, dir, keyName, certName string) (any, *x509.Certificate) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, keyName))
	require.NoError(t, err)
	var key any
	for block, rest := pem.Decode(data); block != nil && key == nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
			require.NoError(t, err)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
			require.NoError(t, err)
		}
	}
	data, err = os.ReadFile(filepath.Join(dir, certName))
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return key, cert
}

// TestAppendixA goes through appendix A of RFC 8886 with its commands, for the EC key that its step 1.1 makes and for
// the RSA key that its printed output comes from. openssl 3 refuses some of them as they are printed: -key names another
// file than the one that was made, smime does not encrypt to EC, and -inform pkcs7 is called PEM.
func TestAppendixA(t *testing.T) {
	dir := t.TempDir()
	const sn = "SN19842256"
	require.NoError(t, os.WriteFile(filepath.Join(dir, sn+".cfg"), unixConfig, 0o600))
	for name, genkey := range map[string][]string{
		"EC":  {"ecparam", "-out", "key.pem", "-name", "prime256v1", "-genkey"},
		"RSA": {"genrsa", "-out", "key.pem", "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			// Step 1.1 to 1.3, by the device.
			openssl(t, dir, genkey...)
			openssl(t, dir, "req", "-new", "-key", "key.pem", "-out", sn+".csr", "-subj", "/CN="+sn)
			openssl(t, dir, "req", "-x509", "-days", "36500", "-key", "key.pem", "-in", sn+".csr", "-out", sn+".crt")
			openssl(t, dir, "genrsa", "-out", "wrongkey.pem", "2048")
			openssl(t, dir, "ecparam", "-out", "wrongec.pem", "-name", "prime256v1", "-genkey")
			key, cert := readKey(t, dir, "key.pem", sn+".crt")
			d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key, Certificates: []*x509.Certificate{cert}})
			require.NoError(t, err)

			// Step 2.2, by the operator.
			encrypt := exec.Command(peer.Need(t, "openssl"), "smime", "-encrypt", "-aes-256-cbc", "-in", sn+".cfg", "-out", sn+".enc",
				"-outform", "PEM", sn+".crt")
			encrypt.Dir = dir
			err = encrypt.Run()
			data, readErr := os.ReadFile(filepath.Join(dir, sn+".enc"))
			require.NoError(t, readErr)
			if name == "EC" {
				require.Error(t, err)
				require.Empty(t, data, "the failed command leaves an empty file to be served")
				_, err = d.DecryptBytes(data)
				require.ErrorIs(t, err, cms.ErrEmpty)
				openssl(t, dir, "cms", "-encrypt", "-aes-256-cbc", "-in", sn+".cfg", "-out", sn+".enc", "-outform", "PEM", sn+".crt")
				data, err = os.ReadFile(filepath.Join(dir, sn+".enc"))
			}
			require.NoError(t, err)

			// Step 3.2, by the device.
			m, err := d.DecryptBytes(data)
			require.NoError(t, err)
			require.Equal(t, canonical(unixConfig), m.Content)
			require.False(t, m.Authenticated)

			// What goes wrong.
			for _, wrong := range []string{"wrongkey.pem", "wrongec.pem"} {
				wrongKey, _ := readKey(t, dir, wrong, sn+".crt")
				_, sameKind := key.(*rsa.PrivateKey)
				_, err = newDecrypter(t, wrongKey).DecryptBytes(data)
				if _, wrongRSA := wrongKey.(*rsa.PrivateKey); wrongRSA == sameKind {
					// Once in 256 times CBC does not notice; then there is garbage in place of an error.
					if err != nil {
						require.Same(t, cms.ErrDecrypt, err)
					}
				} else {
					require.ErrorIs(t, err, cms.ErrNotRecipient)
				}
			}
			_, err = d.DecryptBytes(unixConfig)
			require.ErrorIs(t, err, cms.ErrPlain)
			for _, cut := range []int{1, 27, 28, 100, len(data) / 2, len(data) - 2} {
				_, err = d.DecryptBytes(data[:cut])
				require.Error(t, err, "cut at %d", cut)
			}
			for i := 30; i < len(data)-30; i += 7 {
				bad := bytes.Clone(data)
				bad[i] ^= 0x10
				if m, err := d.DecryptBytes(bad); err == nil {
					require.False(t, m.Authenticated)
				}
			}
		})
	}
}

// TestKeyIdentifier finds the recipient by key alone: openssl's certificates have the SHA-1 identifier of the key, those
// of Go's authorities the one of SHA-256.
func TestKeyIdentifier(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	identities(t)[0].write(t, dir)
	openssl(t, dir, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "a.crt", "-subj", "/CN=a")
	key, _ := readKey(t, dir, "key.pem", "a.crt")
	k := &counting{PrivateKey: key.(*rsa.PrivateKey)}
	data := openssl(t, dir, "cms", "-encrypt", "-binary", "-aes-256-gcm", "-keyid", "-in", "cfg", "-outform", "DER", "rsa2048.crt", "a.crt", "rsa2048.crt")
	m, err := newDecrypter(t, k).DecryptBytes(data)
	require.NoError(t, err)
	require.Equal(t, unixConfig, m.Content)
	require.Equal(t, 1, k.uses)
}

// TestNothingIsPrinted prints everything that holds a key or plain text in every way.
func TestNothingIsPrinted(t *testing.T) {
	id := identities(t)[0]
	key := id.key.(*rsa.PrivateKey)
	der, err := cms.Encrypt([]byte("topsecret"), cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	cfg := cms.DecrypterConfig{Key: key, Certificates: certs(id)}
	d, err := cms.NewDecrypter(cfg)
	require.NoError(t, err)
	m, err := d.DecryptBytes(der)
	require.NoError(t, err)
	sign := cms.SignConfig{Key: key, Certificate: id.cert}
	der, err = cms.Sign([]byte("topsecret"), sign)
	require.NoError(t, err)
	s, err := cms.Verify(der, cms.VerifyConfig{Roots: pool(id.cert)})
	require.NoError(t, err)
	for _, v := range []any{cfg, &cfg, d, m, *m, sign, &sign, s, *s} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), log.String()} {
			require.NotContains(t, text, "topsecret")
			require.NotContains(t, text, fmt.Sprint([]byte("topsecret")))
			require.NotContains(t, text, key.D.String()[:20])
		}
	}
}
