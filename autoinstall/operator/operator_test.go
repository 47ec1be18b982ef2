package operator_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/operator"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

const serial = "SN19842256"

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// certificate is a self-signed one that has expired long ago, as RFC 8886 allows.
func certificate(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: serial},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// directory is a vendor's directory that answers what it is told.
type directory struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	asked  atomic.Int64
}

func newDirectory(t testing.TB) *directory {
	t.Helper()
	d := &directory{}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		if h := d.answer.Load(); h != nil {
			(*h)(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	d.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

func (d *directory) answers(h http.HandlerFunc) { d.answer.Store(&h) }

// publishes answers with a body for one serial number.
func (d *directory) publishes(body []byte) {
	d.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/certificates/"+serial+".crt" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(body)
	})
}

func (d *directory) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(d.Certificate())
	return pool
}

func (d *directory) operator(t testing.TB, dir string) *operator.Operator {
	t.Helper()
	o, err := operator.New(operator.Config{URL: d.URL, Roots: d.roots(), Dir: dir})
	require.NoError(t, err)
	return o
}

func TestFetchKeeps(t *testing.T) {
	ctx := context.Background()
	d := newDirectory(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	o := d.operator(t, dir)
	key := newKey(t)
	cert := certificate(t, key)

	_, err := o.Fetch(ctx, serial)
	require.ErrorIs(t, err, operator.ErrNotPublished)
	_, err = o.Device(serial)
	require.ErrorIs(t, err, operator.ErrNotKept)
	require.NoDirExists(t, dir, "nothing was kept")

	d.publishes(pemOf(cert))
	got, err := o.Fetch(ctx, serial)
	require.NoError(t, err)
	require.True(t, got.New)
	require.Equal(t, cert.Raw, got.Certificate.Raw)
	require.Len(t, got.Fingerprint(), 64)
	kept, err := os.ReadFile(filepath.Join(dir, serial+".crt"))
	require.NoError(t, err)
	require.Equal(t, pemOf(cert), kept)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left")

	// The same key in another certificate, here in DER.
	d.publishes(certificate(t, key).Raw)
	got, err = o.Fetch(ctx, serial)
	require.NoError(t, err)
	require.False(t, got.New)
	require.Equal(t, cert.Raw, got.Certificate.Raw, "what is kept stays")

	// Another key.
	other := certificate(t, newKey(t))
	d.publishes(pemOf(other))
	_, err = o.Fetch(ctx, serial)
	var changed *operator.ChangedError
	require.ErrorAs(t, err, &changed)
	require.Equal(t, &operator.ChangedError{Serial: serial, Kept: operator.Fingerprint(cert), Offered: operator.Fingerprint(other)}, changed)
	got, err = o.Device(serial)
	require.NoError(t, err)
	require.Equal(t, cert.Raw, got.Certificate.Raw)

	// Replace wants to know which.
	for _, bad := range []string{"", "yes", operator.Fingerprint(other)[1:], "zz" + operator.Fingerprint(other)[2:]} {
		_, err = o.Replace(ctx, serial, bad)
		require.ErrorContains(t, err, "fingerprint")
	}
	_, err = o.Replace(ctx, serial, operator.Fingerprint(cert))
	require.ErrorAs(t, err, &changed)
	got, err = o.Replace(ctx, serial, strings.ToUpper(operator.Fingerprint(other)))
	require.NoError(t, err)
	require.True(t, got.New)

	// The directory is gone; the certificate is still there.
	d.Close()
	_, err = o.Fetch(ctx, serial)
	require.ErrorIs(t, err, operator.ErrUnavailable)
	offline, err := operator.New(operator.Config{Dir: dir})
	require.NoError(t, err)
	got, err = offline.Device(serial)
	require.NoError(t, err)
	require.Equal(t, other.Raw, got.Certificate.Raw)
	_, err = offline.Fetch(ctx, serial)
	require.ErrorIs(t, err, operator.ErrUnavailable)
}

// TestUnauthenticatedDirectory refuses every directory that does not prove who it is.
func TestUnauthenticatedDirectory(t *testing.T) {
	d, other := newDirectory(t), newDirectory(t)
	d.publishes(pemOf(certificate(t, newKey(t))))
	otherRoot := x509.NewCertPool()
	otherRoot.AddCert(certificate(t, newKey(t)))
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("asked in the clear") }))
	t.Cleanup(plain.Close)
	for name, c := range map[string]struct {
		url   string
		roots *x509.CertPool
	}{
		"other root":     {d.URL, otherRoot},
		"no root":        {d.URL, x509.NewCertPool()},
		"other name":     {strings.Replace(d.URL, "127.0.0.1", "localhost", 1), d.roots()},
		"not TLS at all": {strings.Replace(plain.URL, "http:", "https:", 1), d.roots()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o, err := operator.New(operator.Config{URL: c.url, Roots: c.roots, Dir: dir})
			require.NoError(t, err)
			_, err = o.Fetch(context.Background(), serial)
			require.ErrorIs(t, err, operator.ErrUnavailable)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
	require.Zero(t, d.asked.Load())
	for name, cfg := range map[string]operator.Config{
		"http":        {URL: plain.URL, Roots: d.roots(), Dir: "x"},
		"no roots":    {URL: d.URL, Dir: "x"},
		"no dir":      {URL: d.URL, Roots: d.roots()},
		"no URL":      {URL: "keyserv.example.net", Roots: d.roots(), Dir: "x"},
		"user":        {URL: "https://u:secret@keyserv.example.net", Roots: d.roots(), Dir: "x"},
		"query":       {URL: d.URL + "/?a=b", Roots: d.roots(), Dir: "x"},
		"long":        {URL: d.URL + strings.Repeat("/a", 2000), Roots: d.roots(), Dir: "x"},
		"bad timeout": {Dir: "x", Timeout: -1},
	} {
		_, err := operator.New(cfg)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "secret")
	}
	// A redirect leads away from who was authenticated, even to another that is.
	both := d.roots()
	both.AddCert(other.Certificate())
	other.publishes(pemOf(certificate(t, newKey(t))))
	for name, target := range map[string]string{"other server": other.URL, "in the clear": plain.URL} {
		d.answers(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target+r.URL.Path, http.StatusFound)
		})
		o, err := operator.New(operator.Config{URL: d.URL, Roots: both, Dir: t.TempDir()})
		require.NoError(t, err)
		_, err = o.Fetch(context.Background(), serial)
		require.ErrorIs(t, err, operator.ErrUnavailable, name)
	}
	require.Zero(t, other.asked.Load())
	// Within the directory it is fine, but not for ever.
	cert := certificate(t, newKey(t))
	d.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			_, _ = w.Write(pemOf(cert))
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	_, err := d.operator(t, t.TempDir()).Fetch(context.Background(), serial)
	require.NoError(t, err)
	d.answers(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) })
	_, err = d.operator(t, t.TempDir()).Fetch(context.Background(), serial)
	require.ErrorIs(t, err, operator.ErrUnavailable)
}

func TestBadAnswers(t *testing.T) {
	d := newDirectory(t)
	good := pemOf(certificate(t, newKey(t)))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"empty": {func(w http.ResponseWriter, r *http.Request) {}, operator.ErrAnswer},
		"page":  {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") }, operator.ErrAnswer},
		"two":   {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(append(good, good...)) }, operator.ErrAnswer},
		"cut":   {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(good[:200]) }, operator.ErrAnswer},
		"key": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n")
		}, operator.ErrAnswer},
		"RSA 1024":     {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(pemOf(certificate(t, small))) }, operator.ErrAnswer},
		"P-224":        {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(pemOf(certificate(t, p224))) }, operator.ErrAnswer},
		"Ed25519":      {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(pemOf(certificate(t, ed))) }, operator.ErrAnswer},
		"huge":         {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(append(good, make([]byte, 1<<20)...)) }, operator.ErrAnswer},
		"server error": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "x", 500) }, operator.ErrUnavailable},
		"rate limited": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "60")
			http.Error(w, "x", http.StatusTooManyRequests)
		}, operator.ErrUnavailable},
		"no content": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }, operator.ErrUnavailable},
		"gone":       {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(410) }, operator.ErrNotPublished},
		"body cut": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9000")
			_, _ = w.Write(good)
		}, operator.ErrUnavailable},
		"header bomb": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("a", 100<<10))
			_, _ = w.Write(good)
		}, operator.ErrUnavailable},
		"after a while": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, operator.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			d.answers(c.answer)
			dir := t.TempDir()
			o, err := operator.New(operator.Config{URL: d.URL, Roots: d.roots(), Dir: dir, Timeout: time.Second})
			require.NoError(t, err)
			_, err = o.Fetch(context.Background(), serial)
			require.ErrorIs(t, err, c.want)
			require.Less(t, len(err.Error()), 500)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
	asked := d.asked.Load()
	for _, bad := range []string{"", "../../etc/passwd", "a/b", "a..b", "-x", ".x", "x y", "x\n", strings.Repeat("x", 65), "SN1%2e%2e", "ä"} {
		_, err := d.operator(t, t.TempDir()).Fetch(context.Background(), bad)
		require.ErrorIs(t, err, operator.ErrSerial, "%q", bad)
		_, err = d.operator(t, t.TempDir()).Device(bad)
		require.ErrorIs(t, err, operator.ErrSerial, "%q", bad)
		_, err = d.operator(t, t.TempDir()).Replace(context.Background(), bad, strings.Repeat("00", 32))
		require.ErrorIs(t, err, operator.ErrSerial, "%q", bad)
	}
	require.Equal(t, asked, d.asked.Load(), "nothing was asked for")
}

func TestDamagedStore(t *testing.T) {
	d := newDirectory(t)
	d.publishes(pemOf(certificate(t, newKey(t))))
	dir := t.TempDir()
	for _, content := range []string{"", "nonsense", strings.Repeat("x", 1<<20)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, serial+".crt"), []byte(content), 0o600))
		_, err := d.operator(t, dir).Device(serial)
		require.ErrorIs(t, err, operator.ErrKept)
		_, err = d.operator(t, dir).Fetch(context.Background(), serial)
		require.ErrorIs(t, err, operator.ErrKept)
		got, err := os.ReadFile(filepath.Join(dir, serial+".crt"))
		require.NoError(t, err)
		require.Equal(t, content, string(got), "a damaged file is not overwritten: nobody knows what it said")
	}
}

// TestFetchAtOnce lets many fetch different keys at the same time. One is kept, and everybody else learns of it.
func TestFetchAtOnce(t *testing.T) {
	d := newDirectory(t)
	var bodies [][]byte
	for range 8 {
		bodies = append(bodies, pemOf(certificate(t, newKey(t))))
	}
	var n atomic.Int64
	d.answers(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(bodies[n.Add(1)%8]) })
	dir := t.TempDir()
	var wg sync.WaitGroup
	var kept, refused atomic.Int64
	for range 8 {
		wg.Go(func() {
			o, err := operator.New(operator.Config{URL: d.URL, Roots: d.roots(), Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := o.Fetch(context.Background(), serial); err == nil {
				kept.Add(1)
			} else if _, ok := err.(*operator.ChangedError); ok {
				refused.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, kept.Load())
	require.EqualValues(t, 7, refused.Load())
}

func TestCrash(t *testing.T) {
	d := newDirectory(t)
	first, second := certificate(t, newKey(t)), certificate(t, newKey(t))
	check := func(t *testing.T, dir string, allowed ...*x509.Certificate) {
		t.Helper()
		o, err := operator.New(operator.Config{Dir: dir})
		require.NoError(t, err)
		got, err := o.Device(serial)
		if err != nil {
			require.ErrorIs(t, err, operator.ErrNotKept)
			require.Contains(t, allowed, (*x509.Certificate)(nil))
			return
		}
		for _, c := range allowed {
			if c != nil && c.Equal(got.Certificate) {
				return
			}
		}
		t.Fatalf("kept %s", got.Fingerprint())
	}
	run := func(dir string, w durable.Writer) (*operator.Operator, error) {
		return operator.New(operator.WithWriter(operator.Config{URL: d.URL, Roots: d.roots(), Dir: dir}, w))
	}
	t.Run("fetch", func(t *testing.T) {
		d.publishes(pemOf(first))
		durabletest.EachStop(t, func(t *testing.T) string { return filepath.Join(t.TempDir(), "dir") },
			func(dir string, w durable.Writer) error {
				o, err := run(dir, w)
				if err != nil {
					return err
				}
				_, err = o.Fetch(context.Background(), serial)
				return err
			}, func(t *testing.T, dir string, done bool) {
				if done {
					check(t, dir, first)
				} else {
					check(t, dir, first, nil)
				}
			})
	})
	t.Run("replace", func(t *testing.T) {
		durabletest.EachStop(t, func(t *testing.T) string {
			dir := t.TempDir()
			d.publishes(pemOf(first))
			_, err := d.operator(t, dir).Fetch(context.Background(), serial)
			require.NoError(t, err)
			d.publishes(pemOf(second))
			return dir
		}, func(dir string, w durable.Writer) error {
			o, err := run(dir, w)
			if err != nil {
				return err
			}
			_, err = o.Replace(context.Background(), serial, operator.Fingerprint(second))
			return err
		}, func(t *testing.T, dir string, done bool) {
			if done {
				check(t, dir, second)
			} else {
				check(t, dir, first, second)
			}
		})
	})
	t.Run("publish", func(t *testing.T) {
		data, err := operator.Encrypt([]byte("hostname SN1\n"), operator.EncryptConfig{Certificate: first})
		require.NoError(t, err)
		durabletest.EachStop(t, func(t *testing.T) string { return filepath.Join(t.TempDir(), serial+".enc") },
			func(file string, w durable.Writer) error { return operator.PublishWith(w, file, data) },
			func(t *testing.T, file string, done bool) {
				got, err := os.ReadFile(file)
				if os.IsNotExist(err) && !done {
					return
				}
				require.NoError(t, err)
				require.Equal(t, data, got)
			})
	})
}

func TestEncrypt(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ownerKey := newKey(t)
	owner := certificate(t, ownerKey)
	configuration := []byte("hostname SN1\nsecret x\n")
	for _, key := range []crypto.Signer{newKey(t), rsaKey} {
		for _, cbc := range []bool{false, true} {
			for _, signed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%T cbc=%v signed=%v", key, cbc, signed), func(t *testing.T) {
					cfg := operator.EncryptConfig{Certificate: certificate(t, key), CBC: cbc}
					if signed {
						cfg.Owner = &operator.Owner{Key: ownerKey, Certificate: owner, Serial: serial, Counter: 7}
					}
					data, err := operator.Encrypt(configuration, cfg)
					require.NoError(t, err)
					require.True(t, bytes.HasPrefix(data, []byte("-----BEGIN ")))
					require.NotContains(t, string(data), serial)
					d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key})
					require.NoError(t, err)
					m, err := d.DecryptBytes(data)
					require.NoError(t, err)
					require.Equal(t, !cbc, m.Authenticated)
					content := m.Content
					if signed {
						pool := x509.NewCertPool()
						pool.AddCert(owner)
						s, err := cms.Verify(content, cms.VerifyConfig{Roots: pool, CurrentTime: time.Unix(0, 500000000)})
						require.NoError(t, err)
						claims, err := cms.ParseOwnerClaims(s.Attributes)
						require.NoError(t, err)
						require.Equal(t, cms.OwnerClaims{Serial: serial, Counter: 7}, claims)
						content = s.Content
					}
					require.Equal(t, configuration, content)
				})
			}
		}
	}
	good := certificate(t, rsaKey)
	for name, c := range map[string]struct {
		content string
		cfg     operator.EncryptConfig
	}{
		"no certificate":    {"x", operator.EncryptConfig{}},
		"empty":             {"", operator.EncryptConfig{Certificate: good}},
		"encrypted already": {"-----BEGIN PKCS7-----\nMIIB\n", operator.EncryptConfig{Certificate: good}},
		"no owner key":      {"x", operator.EncryptConfig{Certificate: good, Owner: &operator.Owner{Certificate: owner}}},
		"owner mismatch":    {"x", operator.EncryptConfig{Certificate: good, Owner: &operator.Owner{Key: rsaKey, Certificate: owner}}},
		"CBC and binding":   {"x", operator.EncryptConfig{Certificate: good, CBC: true, BindCipher: true}},
		"owner serial":      {"x", operator.EncryptConfig{Certificate: good, Owner: &operator.Owner{Key: ownerKey, Certificate: owner, Serial: "../x"}}},
	} {
		_, err := operator.Encrypt([]byte(c.content), c.cfg)
		require.ErrorContains(t, err, "operator: ", name)
	}
	file := filepath.Join(t.TempDir(), "x.enc")
	require.Error(t, operator.Publish(file, configuration), "plain text is not published by mistake")
	require.Error(t, operator.Publish(file, nil))
	require.NoFileExists(t, file)
}

// FuzzParseCertificate reads any bytes as the directory's answer.
func FuzzParseCertificate(f *testing.F) {
	cert := certificate(f, newKey(f))
	f.Add(pemOf(cert))
	f.Add(cert.Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cert, err := operator.ParseCertificate(data)
		if err != nil {
			return
		}
		if _, err := operator.ParseCertificate(pemOf(cert)); err != nil {
			t.Fatal(err)
		}
		if _, err := operator.Encrypt([]byte("x"), operator.EncryptConfig{Certificate: cert}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOwnerIsNotPrinted(t *testing.T) {
	key := newKey(t)
	raw, err := key.Bytes()
	require.NoError(t, err)
	o := operator.Owner{Key: key, Certificate: certificate(t, key)}
	secret := new(big.Int).SetBytes(raw).String()
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "owner", o, "config", operator.EncryptConfig{Owner: &o})
	for _, v := range []any{o, &o, operator.EncryptConfig{Owner: &o}} {
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), logged.String()} {
			require.NotContains(t, text, secret)
			require.NotContains(t, text, secret[:30])
		}
	}
}
