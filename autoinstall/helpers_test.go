package autoinstall_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
)

const serialNumber = "SN19842256"

// device is a software key with its self-signed certificate.
type identity struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func newIdentity(t testing.TB, name string, key crypto.Signer) identity {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return identity{key, cert}
}

func ecIdentity(t testing.TB, name string) identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return newIdentity(t, name, key)
}

func rsaIdentity(t testing.TB, name string) identity {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return newIdentity(t, name, key)
}

func (i identity) asKey(name string) autoinstall.Key {
	return autoinstall.Key{Name: name, Private: i.key, Certificates: []*x509.Certificate{i.cert}}
}

func (i identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.cert)
	return pool
}

// seal encrypts to the identity.
func (i identity) seal(t testing.TB, content []byte) []byte {
	t.Helper()
	der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: []*x509.Certificate{i.cert}})
	require.NoError(t, err)
	return cms.EncodePEM(der)
}

// sign signs as an owner.
func (i identity) sign(t testing.TB, content string, claims cms.OwnerClaims) []byte {
	t.Helper()
	attrs, err := claims.Attributes()
	require.NoError(t, err)
	der, err := cms.Sign([]byte(content), cms.SignConfig{Key: i.key, Certificate: i.cert, Attributes: attrs})
	require.NoError(t, err)
	return der
}

// shelf is a Fetcher over a map from URL to content.
type shelf struct {
	mu      sync.Mutex
	files   map[string][]byte
	fetched []string
	err     error
}

func (s *shelf) Fetch(_ context.Context, u *url.URL, _ []netip.Addr, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = append(s.fetched, u.String())
	if s.err != nil {
		return nil, s.err
	}
	b, ok := s.files[u.String()]
	if !ok {
		return nil, fmt.Errorf("shelf: %w", autoinstall.ErrNotFound)
	}
	if int64(len(b)) > limit {
		return nil, autoinstall.ErrTooLarge
	}
	return b, nil
}

func (s *shelf) put(url string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = map[string][]byte{}
	}
	s.files[url] = b
}

// counting counts the installations of the Installer below it.
type counting struct {
	autoinstall.Installer
	installs int

	mu  sync.Mutex
	err error
}

// fail makes installations fail with err, until it is nil again.
func (c *counting) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *counting) Install(ctx context.Context, cfg *autoinstall.Configuration) error {
	c.installs++
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.Installer.Install(ctx, cfg)
}

// bench is a device with everything around it.
type bench struct {
	dir       string
	path      string
	shelf     *shelf
	installer *counting
	cfg       autoinstall.Config
}

const fileURL = "tftp://192.0.2.1/SN19842256.enc"

func newBench(t testing.TB, change func(*autoinstall.Config)) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{dir: dir, path: filepath.Join(dir, "config", "startup.cfg"), shelf: &shelf{}}
	b.installer = &counting{Installer: autoinstall.NewFileInstaller(b.path)}
	b.cfg = autoinstall.Config{
		Serial: serialNumber, Dir: filepath.Join(dir, "state"), Installer: b.installer,
		Discoverer: autoinstall.Static{fileURL}, Fetcher: b.shelf,
	}
	if change != nil {
		change(&b.cfg)
	}
	return b
}

func (b *bench) device(t testing.TB) *autoinstall.Device {
	t.Helper()
	d, err := autoinstall.New(b.cfg)
	require.NoError(t, err)
	return d
}
