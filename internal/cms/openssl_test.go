package cms_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/peer"
)

// openssl runs the command in dir and fails the test when it fails.
func openssl(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(peer.Need(t, "openssl"), args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "openssl %s: %s", strings.Join(args, " "), stderr.String())
	return out
}

// unixConfig is what an operator encrypts: text with the line ends of Unix, and without one at its end.
var unixConfig = []byte("hostname SN1\nsecret ä\n\ninterface ge-0/0/0\n  up")

// canonical is what S/MIME makes of text when nobody says -binary.
func canonical(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }

func newDecrypter(t testing.TB, key any, ids ...identity) *cms.Decrypter {
	t.Helper()
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key, Certificates: certs(ids...)})
	require.NoError(t, err)
	return d
}

// TestReadOpenSSL reads what openssl smime and openssl cms write, in the whole matrix of their options.
func TestReadOpenSSL(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	stranger := identities(t)[0]
	for _, id := range identities(t) {
		id.write(t, dir)
		decrypters := []*cms.Decrypter{newDecrypter(t, id.key, id), newDecrypter(t, id.key), newDecrypter(t, id.key, stranger)}
		isRSA := strings.HasPrefix(id.name, "rsa")
		for _, tool := range []string{"smime", "cms"} {
			if tool == "smime" && !isRSA {
				continue // PKCS #7 has no key agreement
			}
			for _, cipher := range []string{"aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-128-gcm", "aes-192-gcm", "aes-256-gcm"} {
				if tool == "smime" && strings.HasSuffix(cipher, "gcm") {
					continue // smime knows EnvelopedData alone
				}
				for _, form := range []string{"PEM", "DER", "SMIME"} {
					for _, opts := range []string{"", "-binary", "-stream", "-binary -stream", "-binary -keyid"} {
						if tool == "smime" && strings.Contains(opts, "-keyid") {
							continue
						}
						name := strings.Join([]string{tool, id.name, cipher, form, opts}, " ")
						args := append([]string{tool, "-encrypt", "-" + cipher, "-in", "cfg", "-outform", form}, strings.Fields(opts)...)
						data := openssl(t, dir, append(args, id.name+".crt")...)
						require.Equal(t, cms.KindEncrypted, cms.Detect(data), name)
						want := unixConfig
						if !strings.Contains(opts, "-binary") {
							want = canonical(unixConfig)
						}
						for i, d := range decrypters {
							if i > 0 && form != "DER" {
								continue // how the key is found does not depend on the form
							}
							m, err := d.DecryptBytes(data)
							require.NoError(t, err, name)
							require.Equal(t, want, m.Content, name)
							require.Equal(t, strings.HasSuffix(cipher, "gcm"), m.Authenticated, name)
							require.Equal(t, strings.ToUpper(cipher), m.Cipher, name)
						}
					}
				}
			}
		}
	}
}

// TestReadOpenSSLKeyOptions reads every hash, mask generation and KDF that openssl cms can be told to use.
func TestReadOpenSSLKeyOptions(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	try := func(id identity, cipher string, keyopts ...string) {
		t.Helper()
		args := []string{"cms", "-encrypt", "-binary", "-" + cipher, "-in", "cfg", "-outform", "DER", "-recip", id.name + ".crt"}
		for _, o := range keyopts {
			args = append(args, "-keyopt", o)
		}
		m, err := newDecrypter(t, id.key, id).DecryptBytes(openssl(t, dir, args...))
		require.NoError(t, err, "%s %v", cipher, keyopts)
		require.Equal(t, unixConfig, m.Content)
	}
	hashes := []string{"sha1", "sha224", "sha256", "sha384", "sha512"}
	for _, id := range identities(t) {
		id.write(t, dir)
		if !strings.HasPrefix(id.name, "rsa") {
			for _, h := range hashes {
				for _, cipher := range []string{"aes-128-gcm", "aes-192-gcm", "aes-256-gcm", "aes-256-cbc"} {
					try(id, cipher, "ecdh_kdf_md:"+h)
				}
				try(id, "aes-256-gcm", "ecdh_kdf_md:"+h, "ecdh_cofactor_mode:1")
			}
			for _, wrap := range []string{"-aes128-wrap", "-aes192-wrap", "-aes256-wrap", "-des3-wrap"} {
				data := openssl(t, dir, "cms", "-encrypt", "-binary", "-aes-256-gcm", wrap, "-in", "cfg", "-outform", "DER", id.name+".crt")
				m, err := newDecrypter(t, id.key).DecryptBytes(data)
				if wrap == "-des3-wrap" {
					require.ErrorIs(t, err, cms.ErrUnsupported)
					continue
				}
				require.NoError(t, err, wrap)
				require.Equal(t, unixConfig, m.Content)
			}
			continue
		}
		for _, h := range hashes {
			for _, mgf := range hashes {
				try(id, "aes-256-gcm", "rsa_padding_mode:oaep", "rsa_oaep_md:"+h, "rsa_mgf1_md:"+mgf)
			}
		}
		try(id, "aes-256-cbc", "rsa_padding_mode:oaep")
		try(id, "aes-256-cbc", "rsa_padding_mode:oaep", "rsa_oaep_label:00ff6c6162656c")
	}
}

// TestReadOpenSSLMixedRecipients encrypts one message to all kinds of recipients, a password among them.
func TestReadOpenSSLMixedRecipients(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	for _, cipher := range []string{"aes-256-cbc", "aes-256-gcm"} {
		for _, extra := range [][]string{nil, {"-keyid"}, {"-pwri_password", "x"},
			{"-secretkey", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "-secretkeyid", "01"}} {
			if cipher == "aes-256-gcm" && slices.Contains(extra, "-pwri_password") {
				continue // openssl cannot wrap a key with a password and GCM
			}
			args := append([]string{"cms", "-encrypt", "-binary", "-" + cipher, "-in", "cfg", "-outform", "PEM"}, extra...)
			for _, id := range identities(t) {
				_, crt := id.write(t, dir)
				args = append(args, crt)
			}
			data := openssl(t, dir, args...)
			for _, id := range identities(t) {
				for _, known := range [][]identity{{id}, nil} {
					m, err := newDecrypter(t, id.key, known...).DecryptBytes(data)
					require.NoError(t, err, "%s %s %v", cipher, id.name, extra)
					require.Equal(t, unixConfig, m.Content)
				}
			}
		}
	}
}

// TestOpenSSLReads has openssl read what Encrypt writes.
func TestOpenSSLReads(t *testing.T) {
	dir := t.TempDir()
	for _, id := range identities(t) {
		key, crt := id.write(t, dir)
		for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
			for _, ski := range []bool{false, true} {
				der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id), Cipher: cipher, KeyIdentifiers: ski})
				require.NoError(t, err)
				for form, data := range map[string][]byte{"DER": der, "PEM": cms.EncodePEM(der)} {
					in := filepath.Join(dir, fmt.Sprintf("%s-%d-%v.%s", id.name, cipher, ski, form))
					require.NoError(t, os.WriteFile(in, data, 0o600))
					tools := []string{"cms"}
					if strings.HasPrefix(id.name, "rsa") && cipher == cms.AES256CBC && !ski {
						tools = append(tools, "smime")
					}
					for _, tool := range tools {
						for _, by := range [][]string{{"-inkey", key}, {"-inkey", key, "-recip", crt}} {
							args := append([]string{tool, "-decrypt", "-binary", "-inform", form, "-in", in}, by...)
							require.Equal(t, unixConfig, openssl(t, dir, args...), "%s %s", tool, in)
						}
					}
				}
			}
		}
	}
	// All recipients in one message.
	der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(identities(t)...)})
	require.NoError(t, err)
	in := filepath.Join(dir, "all.der")
	require.NoError(t, os.WriteFile(in, der, 0o600))
	for _, id := range identities(t) {
		key, crt := id.write(t, dir)
		require.Equal(t, unixConfig, openssl(t, dir, "cms", "-decrypt", "-binary", "-inform", "DER", "-in", in,
			"-inkey", key, "-recip", crt), id.name)
	}
}
