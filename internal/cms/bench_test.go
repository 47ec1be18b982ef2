package cms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/peer"
)

// processEnv makes the test binary decrypt one file and exit, so that a program stands beside a program.
const processEnv = "CMS_TEST_DECRYPT"

func TestMain(m *testing.M) {
	what := os.Getenv(processEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	if err := decryptProcess(strings.Split(what, "|")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func decryptProcess(args []string) error {
	data, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key, MaxSize: 1 << 30})
	if err != nil {
		return err
	}
	return decryptFile(d, args[0], args[1])
}

// BenchmarkDecrypt decrypts from file to file, beside openssl cms -decrypt on the same file in the same run: once as a
// program of its own, as openssl is, and once within a running program, as a device does it.
//
//	go test -run xxx -bench Decrypt -benchtime 20x ./internal/cms
func BenchmarkDecrypt(b *testing.B) {
	tool := peer.Need(b, "openssl")
	dir := b.TempDir()
	for _, id := range identities(b)[:2] {
		keyFile, _ := id.write(b, dir)
		for _, size := range []int{0, 10_000, 100_000_000} {
			content := make([]byte, size)
			_, err := rand.Read(content)
			require.NoError(b, err)
			for _, cipher := range []string{"aes-256-gcm", "aes-256-cbc"} {
				for _, form := range []string{"DER", "PEM"} {
					in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
					der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(id), Cipher: map[string]cms.Cipher{"aes-256-cbc": cms.AES256CBC}[cipher]})
					require.NoError(b, err)
					if form == "PEM" {
						der = cms.EncodePEM(der)
					}
					require.NoError(b, os.WriteFile(in, der, 0o600))
					d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: id.key, MaxSize: 1 << 30})
					require.NoError(b, err)
					name := fmt.Sprintf("%s/%s/%s/%d", id.name, cipher, form, size)
					b.Run(name+"/openssl", func(b *testing.B) {
						b.SetBytes(int64(size))
						for b.Loop() {
							cmd := exec.Command(tool, "cms", "-decrypt", "-binary", "-inform", form, "-in", in, "-out", out, "-inkey", keyFile)
							msg, err := cmd.CombinedOutput()
							require.NoError(b, err, string(msg))
						}
					})
					b.Run(name+"/ours-process", func(b *testing.B) {
						b.SetBytes(int64(size))
						for b.Loop() {
							cmd := exec.Command(os.Args[0])
							cmd.Env = append(os.Environ(), processEnv+"="+in+"|"+out+"|"+keyFile)
							msg, err := cmd.CombinedOutput()
							require.NoError(b, err, string(msg))
						}
					})
					b.Run(name+"/ours", func(b *testing.B) {
						b.SetBytes(int64(size))
						for b.Loop() {
							require.NoError(b, decryptFile(d, in, out))
						}
					})
					got, err := os.ReadFile(out)
					require.NoError(b, err)
					require.True(b, bytes.Equal(content, got))
				}
			}
		}
	}
}

func decryptFile(d *cms.Decrypter, in, out string) error {
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	m, err := d.Decrypt(f)
	if err != nil {
		return err
	}
	return os.WriteFile(out, m.Content, 0o600)
}

// BenchmarkEncrypt encrypts 100 MB in memory.
func BenchmarkEncrypt(b *testing.B) {
	content := make([]byte, 100_000_000)
	for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
		b.Run(fmt.Sprint(cipher), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				_, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(identities(b)[1]), Cipher: cipher})
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkDetect looks at a plain configuration, which every unencrypted install does.
func BenchmarkDetect(b *testing.B) {
	plain := bytes.Repeat([]byte("interface ge-0/0/0 up\n"), 1000)[:cms.DetectLen]
	for b.Loop() {
		if cms.Detect(plain) != cms.KindPlain {
			b.Fatal("not plain")
		}
	}
}
