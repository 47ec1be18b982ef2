package cms_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// identity is a key with a self-signed certificate, as a device makes it.
type identity struct {
	name string
	key  crypto.Signer
	cert *x509.Certificate
}

var allIdentities = sync.OnceValues(func() ([]identity, error) {
	var out []identity
	add := func(name string, key crypto.Signer, err error) error {
		if err != nil {
			return err
		}
		cert, err := selfSigned(key, "SN-"+name)
		out = append(out, identity{name, key, cert})
		return err
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err := add("rsa2048", rsaKey, err); err != nil {
		return nil, err
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err := add(c.Params().Name, key, err); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// identities gives one RSA and three EC identities, which are made once.
func identities(t testing.TB) []identity {
	t.Helper()
	ids, err := allIdentities()
	require.NoError(t, err)
	return ids
}

func selfSigned(key crypto.Signer, name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		SubjectKeyId: pub[len(pub)-20:],
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func certs(ids ...identity) []*x509.Certificate {
	var out []*x509.Certificate
	for _, id := range ids {
		out = append(out, id.cert)
	}
	return out
}

// write puts key and certificate into dir as PEM files for openssl.
func (id identity) write(t testing.TB, dir string) (keyFile, certFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	require.NoError(t, err)
	keyFile, certFile = filepath.Join(dir, id.name+".key"), filepath.Join(dir, id.name+".crt")
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	writeCert(t, certFile, id.cert)
	return keyFile, certFile
}

func writeCert(t testing.TB, name string, cert *x509.Certificate) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600))
}
