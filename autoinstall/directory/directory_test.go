package directory_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall/directory"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func certify(t testing.TB, name string, key crypto.Signer, issuer *x509.Certificate, by crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if change != nil {
		change(tmpl)
	}
	if issuer == nil {
		issuer, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, key.Public(), by)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(t testing.TB, key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func sum(c *x509.Certificate) string {
	s := sha256.Sum256(c.Raw)
	return hex.EncodeToString(s[:])
}

type sink struct {
	mu     sync.Mutex
	events []mooring.Event
}

func (s *sink) RecordEvent(_ context.Context, e mooring.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// world is a directory behind HTTPS, with a CA of its own.
type world struct {
	dir    string
	ca     *x509.Certificate
	secret directory.Secret
	events sink
	server *directory.Server
	url    string
	stop   func()
}

func newWorld(t testing.TB, change func(*directory.Config)) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	caKey := newKey(t)
	w.ca = certify(t, "CA", caKey, nil, nil, asCA)
	var err error
	w.secret, err = directory.NewSecret(w.ca)
	require.NoError(t, err)
	store, err := directory.OpenStore(w.dir)
	require.NoError(t, err)
	wrapKey := newKey(t)
	cfg := directory.Config{
		Store: store, Tokens: []directory.Token{{Name: "factory", SHA256: w.secret.Hash()}}, Events: &w.events,
		WrapKey: wrapKey, WrapCertificate: certify(t, "wrapper", wrapKey, nil, nil, asCA),
	}
	if change != nil {
		change(&cfg)
	}
	w.server, err = directory.New(cfg)
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(w.server)
	leafKey := newKey(t)
	leaf := certify(t, "", leafKey, w.ca, caKey, func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, w.ca.Raw}, PrivateKey: leafKey}}}
	srv.StartTLS()
	w.url = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	w.stop = sync.OnceFunc(func() { srv.Close(); _ = store.Close() })
	t.Cleanup(w.stop)
	return w
}

func (w *world) client(t testing.TB) *directory.Client {
	c, err := directory.NewClient(directory.ClientConfig{URL: w.url, Token: w.secret})
	require.NoError(t, err)
	return c
}

// get does what the RFC's wget does.
func (w *world) get(t testing.TB, path string) (int, []byte) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.ca)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	res, err := c.Get(w.url + path)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, b
}

func TestPublishAndLookup(t *testing.T) {
	w := newWorld(t, nil)
	cert := certify(t, "SN1", newKey(t), nil, nil, nil)
	got, published, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: certPEM(cert)})
	require.NoError(t, err)
	require.True(t, published)
	require.Equal(t, cert.Raw, got.Raw)
	_, published, err = w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: cert.Raw})
	require.NoError(t, err)
	require.False(t, published, "the same once more")
	status, body := w.get(t, "/certificates/SN1.crt")
	require.Equal(t, 200, status)
	require.Equal(t, certPEM(cert), body)
	for _, path := range []string{"/certificates/SN2.crt", "/certificates/sn1.crt", "/certificates/..%2fSN1.crt", "/certificates/.crt", "/certificates/", "/", "/certificates/SN1"} {
		status, _ := w.get(t, path)
		require.Equal(t, 404, status, path)
	}
	require.Len(t, w.events.events, 1)
	require.True(t, w.events.events[0].Permitted)
}

func TestRawKeysAreWrapped(t *testing.T) {
	w := newWorld(t, nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for serial, key := range map[string]crypto.Signer{"EC": newKey(t), "RSA": rsaKey} {
		cert, published, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: serial, Body: keyPEM(t, key.Public())})
		require.NoError(t, err)
		require.True(t, published)
		require.Equal(t, serial, cert.Subject.CommonName)
		require.Equal(t, key.Public(), cert.PublicKey)
		again, published, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: serial, Body: keyPEM(t, key.Public())})
		require.NoError(t, err)
		require.False(t, published)
		require.Equal(t, cert.Raw, again.Raw)
		_, body := w.get(t, "/certificates/"+serial+".crt")
		require.Equal(t, certPEM(cert), body)
	}
}

func TestPublishedStaysUntilItIsReplaced(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(t)
	first, second := certify(t, "SN1", newKey(t), nil, nil, nil), certify(t, "SN1", newKey(t), nil, nil, nil)
	publish := func(body []byte, replaces, reason string) error {
		_, _, err := c.Publish(t.Context(), directory.Publication{Serial: "SN1", Body: body, Replaces: replaces, Reason: reason})
		return err
	}
	require.ErrorIs(t, publish(certPEM(first), strings.Repeat("0", 64), "mistake"), directory.ErrStale)
	require.NoError(t, publish(certPEM(first), "", ""))
	require.ErrorIs(t, publish(certPEM(second), "", ""), directory.ErrPublished)
	require.ErrorIs(t, publish(certPEM(second), sum(second), "board repaired"), directory.ErrStale)
	require.ErrorIs(t, publish(certPEM(second), sum(first), ""), directory.ErrRefused)
	require.ErrorIs(t, publish(certPEM(second), sum(first), strings.Repeat("x", 201)), directory.ErrRefused)
	_, body := w.get(t, "/certificates/SN1.crt")
	require.Equal(t, certPEM(first), body)

	require.NoError(t, publish(certPEM(second), sum(first), "board repaired"))
	_, body = w.get(t, "/certificates/SN1.crt")
	require.Equal(t, certPEM(second), body)
	last := w.events.events[len(w.events.events)-1]
	require.Equal(t, "directory.replace", last.Type)
	var detail map[string]string
	require.NoError(t, json.Unmarshal(last.Detail, &detail))
	require.Equal(t, "factory", detail["by"])
	require.Equal(t, "board repaired", detail["reason"])

	w.stop()
	store, err := directory.OpenStore(w.dir)
	require.NoError(t, err, "after a restart")
	defer store.Close()
	r, err := store.Lookup(t.Context(), "SN1")
	require.NoError(t, err)
	require.Len(t, r.Versions, 2)
	require.Equal(t, "board repaired", r.Current().Reason)
	require.Equal(t, sum(first), r.Current().Replaces)
}

func TestWhoMayPublish(t *testing.T) {
	w := newWorld(t, nil)
	cert := certify(t, "SN1", newKey(t), nil, nil, nil)
	stranger, err := directory.NewSecret(w.ca)
	require.NoError(t, err)
	c, err := directory.NewClient(directory.ClientConfig{URL: w.url, Token: stranger})
	require.NoError(t, err)
	_, _, err = c.Publish(t.Context(), directory.Publication{Serial: "SN1", Body: cert.Raw})
	require.ErrorIs(t, err, directory.ErrUnauthorized)
	for _, header := range []string{"", "Basic eDp5", "Bearer ", "Bearer mdt1", "Bearer mdt1.AAAA", "Bearer " + strings.Repeat("x", 5000)} {
		req := httptest.NewRequest(http.MethodPut, "/certificates/SN1.crt", bytes.NewReader(cert.Raw))
		req.Header.Set("Authorization", header)
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, req)
		require.Equal(t, 401, rec.Code, header)
	}
	status, _ := w.get(t, "/certificates/SN1.crt")
	require.Equal(t, 404, status)
	for _, e := range w.events.events {
		require.False(t, e.Permitted)
		require.NotContains(t, string(e.Detail), "mdt1")
	}
}

func TestWhatIsRefused(t *testing.T) {
	w := newWorld(t, func(c *directory.Config) {
		c.Policy = func(_ context.Context, c directory.Candidate) error {
			if strings.HasPrefix(c.Serial, "BAD") {
				return errors.New("not one of ours")
			}
			return nil
		}
	})
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	key := newKey(t)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	good := certify(t, "x", key, nil, nil, nil)
	for name, body := range map[string][]byte{
		"weak RSA key": keyPEM(t, weak.Public()), "Ed25519": keyPEM(t, ed.Public()), "P-224": keyPEM(t, p224.Public()),
		"nothing": nil, "garbage": []byte("garbage"), "cut": good.Raw[:100],
		"private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"two":         append(certPEM(good), certPEM(good)...), "large": make([]byte, directory.MaxBody+1),
	} {
		_, _, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: body})
		require.ErrorIs(t, err, directory.ErrRefused, name)
	}
	_, _, err = w.client(t).Publish(t.Context(), directory.Publication{Serial: "BAD1", Body: good.Raw})
	require.ErrorIs(t, err, directory.ErrRefused)
	require.ErrorContains(t, err, "not one of ours")
	_, _, err = w.client(t).Publish(t.Context(), directory.Publication{Serial: "../x", Body: good.Raw})
	require.ErrorIs(t, err, directory.ErrRefused)
	entries, err := filepath.Glob(filepath.Join(w.dir, "certificates", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestOneKeyUnderTwoIdentifiers(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	for _, serial := range []string{"SN1", "2f9c1d5e-5b0c-4a53-9d5c-0d2f6c6d9f11"} {
		_, published, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: serial, Body: keyPEM(t, key.Public())})
		require.NoError(t, err)
		require.True(t, published)
	}
}

func TestClonedKeyIsFoundOut(t *testing.T) {
	w := newWorld(t, func(c *directory.Config) { c.UniqueKeys = true })
	key := newKey(t)
	_, _, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: keyPEM(t, key.Public())})
	require.NoError(t, err)
	_, _, err = w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN2", Body: certPEM(certify(t, "SN2", key, nil, nil, nil))})
	require.ErrorIs(t, err, directory.ErrKeyInUse)
	require.ErrorContains(t, err, "SN1")
}

func TestRequestsAreLimited(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(c *directory.Config) {
		c.LookupsPerMinute, c.PublishesPerMinute = 40, 4
		c.Now = func() time.Time { return now }
	})
	ask := func(method, from string) int {
		req := httptest.NewRequest(method, "/certificates/SN1.crt", nil)
		req.RemoteAddr = from
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, req)
		return rec.Code
	}
	for range 10 {
		require.Equal(t, 404, ask("GET", "192.0.2.1:1"))
	}
	require.Equal(t, 429, ask("GET", "192.0.2.1:2"), "ports don't matter")
	require.Equal(t, 404, ask("GET", "192.0.2.2:1"), "others are not concerned")
	for range 10 {
		require.Equal(t, 404, ask("GET", "[2001:db8::1]:1"))
	}
	require.Equal(t, 429, ask("GET", "[2001:db8::ffff]:1"), "one network is one client")
	require.Equal(t, 401, ask("PUT", "192.0.2.1:1"))
	require.Equal(t, 429, ask("PUT", "192.0.2.1:1"), "guessing tokens is limited")
	now = now.Add(time.Minute)
	require.Equal(t, 404, ask("GET", "192.0.2.1:1"))
	require.Equal(t, 405, ask("DELETE", "192.0.2.1:1"))
}

func TestTokensAndTheirPin(t *testing.T) {
	w := newWorld(t, nil)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", w.secret, w.secret, w.secret, w.secret), "mdt1")
	b, err := json.Marshal(struct{ S directory.Secret }{w.secret})
	require.NoError(t, err)
	require.NotContains(t, string(b), "mdt1")
	again, err := directory.ParseToken(w.secret.Reveal())
	require.NoError(t, err)
	require.Equal(t, w.secret, again)
	for _, bad := range []string{"", "mdt1", "mdt1.AAAA", w.secret.Reveal() + "x", w.secret.Reveal() + ".x", "x" + w.secret.Reveal()} {
		_, err := directory.ParseToken(bad)
		require.Error(t, err, bad)
	}
	// A token of another directory: the server is not the pinned one.
	other := certify(t, "other", newKey(t), nil, nil, asCA)
	wrong, err := directory.NewSecret(other)
	require.NoError(t, err)
	c, err := directory.NewClient(directory.ClientConfig{URL: w.url, Token: wrong})
	require.NoError(t, err)
	_, _, err = c.Publish(t.Context(), directory.Publication{Serial: "SN1", Body: []byte("x")})
	require.ErrorContains(t, err, "not the directory that the token is for")
	// The right CA, but another name.
	c, err = directory.NewClient(directory.ClientConfig{URL: strings.Replace(w.url, "localhost", "127.0.0.1", 1), Token: w.secret})
	require.NoError(t, err)
	_, _, err = c.Publish(t.Context(), directory.Publication{Serial: "SN1", Body: []byte("x")})
	require.ErrorContains(t, err, "127.0.0.1")
	_, err = directory.NewClient(directory.ClientConfig{URL: "http://localhost", Token: w.secret})
	require.ErrorContains(t, err, "https")
}

func FuzzParseToken(f *testing.F) {
	f.Add("mdt1." + strings.Repeat("A", 43))
	f.Add("mdt1." + strings.Repeat("A", 43) + "." + strings.Repeat("A", 43))
	f.Add("mdt1..")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := directory.ParseToken(text)
		if err == nil && s.Reveal() != text {
			t.Fatalf("%q reads back as another", text)
		}
	})
}

func TestStopAtEveryStepOfPublishing(t *testing.T) {
	type scene struct {
		dir  string
		v    directory.Version
		cert *x509.Certificate
	}
	version := func(c *x509.Certificate) directory.Version {
		k := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		return directory.Version{Certificate: c.Raw, SHA256: sum(c), KeySHA256: hex.EncodeToString(k[:]), By: "factory", Time: time.Now()}
	}
	durabletest.EachStop(t,
		func(t *testing.T) scene {
			s := scene{dir: t.TempDir(), cert: certify(t, "SN1", newKey(t), nil, nil, nil)}
			store, err := directory.OpenStore(s.dir)
			require.NoError(t, err)
			old := version(certify(t, "SN1", newKey(t), nil, nil, nil))
			_, _, err = store.Put(t.Context(), "SN1", old, true)
			require.NoError(t, err)
			s.v = version(s.cert)
			s.v.Replaces, s.v.Reason = old.SHA256, "repair"
			require.NoError(t, store.Close())
			return s
		},
		func(s scene, w durable.Writer) error {
			store, err := directory.OpenStoreOn(s.dir, w)
			if err != nil {
				return err
			}
			defer store.Close()
			_, _, err = store.Put(context.Background(), "SN1", s.v, true)
			return err
		},
		func(t *testing.T, s scene, done bool) {
			store, err := directory.OpenStore(s.dir)
			require.NoError(t, err)
			defer store.Close()
			left, err := filepath.Glob(filepath.Join(s.dir, "*", "*", ".*"))
			require.NoError(t, err)
			require.Empty(t, left, "opening removes what the crash left")
			r, err := store.Lookup(t.Context(), "SN1")
			require.NoError(t, err)
			if done {
				require.Equal(t, s.v.SHA256, r.Current().SHA256)
			}
			if len(r.Versions) == 1 {
				// A claim that a crash left must not block anybody.
				other := s.v
				other.Replaces, other.Reason = "", ""
				_, published, err := store.Put(t.Context(), "SN9", other, true)
				require.NoError(t, err)
				require.True(t, published)
				return
			}
			_, published, err := store.Put(t.Context(), "SN1", s.v, true)
			require.NoError(t, err)
			require.False(t, published)
		})
}

func TestStoreIsOpenOnce(t *testing.T) {
	w := newWorld(t, nil)
	_, err := directory.OpenStore(w.dir)
	require.ErrorContains(t, err, "another process has it open")
}

func TestDamagedRecordIsTold(t *testing.T) {
	w := newWorld(t, nil)
	cert := certify(t, "SN1", newKey(t), nil, nil, nil)
	_, _, err := w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: cert.Raw})
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(w.dir, "certificates", "*", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte("{"), 0o600))
	status, body := w.get(t, "/certificates/SN1.crt")
	require.Equal(t, 500, status)
	require.NotContains(t, string(body), w.dir)
	_, _, err = w.client(t).Publish(t.Context(), directory.Publication{Serial: "SN1", Body: certify(t, "SN1", newKey(t), nil, nil, nil).Raw})
	require.ErrorContains(t, err, "500", "a damaged record is not overwritten")
}

func TestConfigNamesEveryBadField(t *testing.T) {
	_, err := directory.New(directory.Config{LookupsPerMinute: -1, WrapKey: newKey(t), Tokens: []directory.Token{{}}})
	for _, want := range []string{"Store", "WrapKey", "limits", "token"} {
		require.ErrorContains(t, err, want)
	}
}

func TestManyPublishersAtOnce(t *testing.T) {
	// Of many different certificates for one serial number, one wins.
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 16 {
		cert := certify(t, "SN1", newKey(t), nil, nil, nil)
		wg.Go(func() {
			_, published, err := w.server.Publish(context.Background(), directory.Publication{Serial: "SN1", Body: cert.Raw, By: "factory"})
			mu.Lock()
			defer mu.Unlock()
			if err == nil && published {
				won++
			} else if !errors.Is(err, directory.ErrPublished) {
				t.Errorf("publish: %v", err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, won)
}
