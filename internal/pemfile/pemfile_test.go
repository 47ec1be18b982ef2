package pemfile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/pemfile"
)

func TestReadIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("12345"), 0o600))
	got, err := pemfile.Read(path, 5)
	require.NoError(t, err)
	require.Equal(t, "12345", string(got))
	_, err = pemfile.Read(path, 4)
	require.ErrorContains(t, err, "is larger than 4 bytes")
	_, err = pemfile.Read(path+"x", 4)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	block := func(serial int64) string {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		require.NoError(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	other := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	path := filepath.Join(t.TempDir(), "certs.pem")
	read := func(text string) ([]*x509.Certificate, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return pemfile.Certificates(path, 1<<20)
	}
	certs, err := read("text\n" + block(1) + other + block(2))
	require.NoError(t, err)
	require.Len(t, certs, 2)
	require.Equal(t, int64(1), certs[0].SerialNumber.Int64())
	require.Equal(t, int64(2), certs[1].SerialNumber.Int64())
	_, err = read(other)
	require.ErrorContains(t, err, "holds no PEM certificate")
	_, err = read(block(1) + broken)
	require.ErrorContains(t, err, "certificate 2")
}
