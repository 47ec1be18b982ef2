package pki_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/verify"
)

// start is when the tests play.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// recorder is all the sinks and hooks of a product.
type recorder struct {
	mu      sync.Mutex
	alarms  []mooring.Alarm
	events  []mooring.Event
	reauths []string
	drops   []pki.Drop
}

func (r *recorder) SetAlarm(_ context.Context, a mooring.Alarm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alarms = append(r.alarms, a)
}

func (r *recorder) RecordEvent(_ context.Context, e mooring.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) Reauthenticate(_ context.Context, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reauths = append(r.reauths, name)
}

func (r *recorder) DropPeering(_ context.Context, d pki.Drop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drops = append(r.drops, d)
}

// history returns the alarms of an ID as "severity" or "cleared".
func (r *recorder) history(id string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, a := range r.alarms {
		switch {
		case a.ID != id:
		case a.Active():
			out = append(out, a.Severity.String())
		default:
			out = append(out, "cleared")
		}
	}
	return out
}

func (r *recorder) lastEvent(t *testing.T) (mooring.Event, map[string]any) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotEmpty(t, r.events)
	e := r.events[len(r.events)-1]
	var d map[string]any
	require.NoError(t, json.Unmarshal(e.Detail, &d))
	return e, d
}

// bench is a Manager with its world.
type bench struct {
	*recorder
	m   *pki.Manager
	dir string
	ca  *testca.CA
	now time.Time
}

func newBench(t testing.TB, edits ...func(*pki.Config)) *bench {
	t.Helper()
	b := &bench{recorder: &recorder{}, dir: t.TempDir(), now: start}
	b.ca = testca.Root(t, "root", start)
	b.open(t, edits...)
	b.trust(t, "root", b.ca.Cert)
	return b
}

func (b *bench) open(t testing.TB, edits ...func(*pki.Config)) {
	t.Helper()
	cfg := pki.Config{
		Dir: b.dir, Node: "test-1", Alarms: b.recorder, Events: b.recorder, Hooks: b.recorder,
		Now: func() time.Time { return b.now },
	}
	for _, e := range edits {
		e(&cfg)
	}
	m, err := pki.New(cfg)
	require.NoError(t, err)
	require.NoError(t, m.Open(t.Context()))
	b.m = m
}

func (b *bench) trust(t testing.TB, name string, certs ...*x509.Certificate) {
	t.Helper()
	_, err := b.m.AddTrust(t.Context(), name, testca.PEM(certs...), pki.Strict)
	require.NoError(t, err)
}

// csr makes a key, unless there is one, and a request.
func (b *bench) csr(t testing.TB, name string) []byte {
	t.Helper()
	csr, err := b.m.CreateRequest(t.Context(), pki.Request{Name: name, CommonName: name, Algorithm: "ECC", SubjectAltNames: []string{name + ".example"}})
	require.NoError(t, err)
	return csr
}

// provision goes all the way.
func (b *bench) provision(t testing.TB, name string, edits ...testca.Edit) *x509.Certificate {
	t.Helper()
	c := b.ca.Sign(t, b.csr(t, name), edits...)
	report, err := b.m.Ingest(t.Context(), name, testca.PEM(c))
	require.NoError(t, err)
	require.True(t, report.Accepted)
	return c
}

func (b *bench) status(t testing.TB, name string) pki.Status {
	t.Helper()
	for _, s := range b.m.Show(t.Context()) {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("%q is not shown", name)
	return pki.Status{}
}

// files returns the pair as any other program reads it.
func (b *bench) files(t testing.TB, name string) (key, cert string) {
	t.Helper()
	k, err := os.ReadFile(filepath.Join(b.dir, name+".key"))
	require.NoError(t, err)
	c, err := os.ReadFile(filepath.Join(b.dir, name+".pem"))
	if os.IsNotExist(err) {
		return string(k), ""
	}
	require.NoError(t, err)
	return string(k), string(c)
}

func TestProvision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	require.NoError(t, b.m.CreateKey(ctx, pki.KeyRequest{Name: "custom_ssr_peering", Algorithm: "RSA", RSAKeySize: 2048}))
	e, d := b.lastEvent(t)
	require.Equal(t, "system.generate_private_key", e.Type)
	require.True(t, e.Permitted)
	require.Equal(t, "RSA", d["algorithm"])
	info, err := os.Stat(filepath.Join(b.dir, "custom_ssr_peering.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	csr, err := b.m.CreateRequest(ctx, pki.Request{
		Name: "custom_ssr_peering", CommonName: "example.com", CountryName: "US", StateProvinceName: "California", LocalityName: "San Francisco",
		OrganizationName: "ExampleOrg", OrganizationalUnit: "IT", EmailAddress: "admin@example.com", ValidityPeriod: 365,
		SubjectAltNames: []string{"example.com", "IP:192.0.2.1", "email:a@example.com", "URI:https://example.com/x"},
	})
	require.NoError(t, err)
	block, _ := pem.Decode(csr)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(t, err)
	require.NoError(t, r.CheckSignature())
	require.Equal(t, "US", r.Subject.Country[0])
	require.Equal(t, []string{"example.com"}, r.DNSNames)
	require.Len(t, r.IPAddresses, 1)
	require.Len(t, r.EmailAddresses, 1)
	require.Len(t, r.URIs, 1)

	// The record of the reference, with the additions that were asked for.
	e, d = b.lastEvent(t)
	require.Equal(t, "system.generate_csr", e.Type)
	require.Equal(t, "Generated CSR for: custom_ssr_peering", e.Description)
	require.Equal(t, "test-1", e.Node)
	delete(d, "subject_alt_names")
	require.Equal(t, map[string]any{
		"name": "custom_ssr_peering", "common_name": "example.com", "country_name": "US", "state_province_name": "California",
		"locality_name": "San Francisco", "organization_name": "ExampleOrg", "organizational_unit_name": "IT",
		"email_address": "admin@example.com", "validity_period_days": float64(365),
	}, d)

	sub := b.ca.Intermediate(t, "issuing")
	c := sub.Sign(t, csr, func(t *x509.Certificate) {
		t.CRLDistributionPoints = []string{"http://10.27.34.42/crlfile.crl"}
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	report, err := b.m.Ingest(ctx, "custom_ssr_peering", testca.PEM(sub.Cert, c, b.ca.Cert))
	require.NoError(t, err)
	require.Len(t, report.Checks, 3)
	require.Equal(t, []string{pki.CheckPrivateKey, pki.CheckValid, pki.CheckRevocation}, []string{report.Checks[0].Name, report.Checks[1].Name, report.Checks[2].Name})
	require.Equal(t, pki.StateValid, report.Certificate.State)
	_, cert := b.files(t, "custom_ssr_peering")
	require.Equal(t, string(testca.PEM(c, sub.Cert)), cert, "leaf first, the root left out")
	require.Equal(t, []string{"custom_ssr_peering"}, b.reauths)

	e, d = b.lastEvent(t)
	require.Equal(t, "system.ingest_certificate", e.Type)
	require.Equal(t, "Ingested certificate: custom_ssr_peering", e.Description)
	require.Equal(t, "TLS Web Client Authentication", d["purpose"])
	require.Equal(t, "example.com", d["common_name"])
	require.Equal(t, []any{"http://10.27.34.42/crlfile.crl"}, d["crl_urls"])
	require.Equal(t, "/O=Test/CN=issuing", d["certificate_authority"])
	require.Regexp(t, `^([0-9A-F]{2}:){19}[0-9A-F]{2}$`, d["fingerprint"])

	require.Equal(t, pki.Counters{CSRSuccess: 1, ImportSuccess: 1}, b.m.Counters())
	require.Equal(t, "RSA 2048", b.status(t, "custom_ssr_peering").Key)
}

func TestFieldErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	fields := func(err error) []string {
		var fe pki.FieldErrors
		require.ErrorAs(t, err, &fe)
		var out []string
		for _, f := range fe {
			out = append(out, f.Field)
		}
		return out
	}
	for name, c := range map[string]struct {
		r    pki.KeyRequest
		want []string
	}{
		"nothing":        {pki.KeyRequest{}, []string{"name", "algorithm"}},
		"path":           {pki.KeyRequest{Name: "../a", Algorithm: "RSA"}, []string{"name"}},
		"slash":          {pki.KeyRequest{Name: "a/b", Algorithm: "RSA"}, []string{"name"}},
		"hidden":         {pki.KeyRequest{Name: ".a", Algorithm: "RSA"}, []string{"name"}},
		"option":         {pki.KeyRequest{Name: "-a", Algorithm: "RSA"}, []string{"name"}},
		"zero byte":      {pki.KeyRequest{Name: "a\x00", Algorithm: "RSA"}, []string{"name"}},
		"long":           {pki.KeyRequest{Name: fmt.Sprintf("%065d", 1), Algorithm: "RSA"}, []string{"name"}},
		"letters":        {pki.KeyRequest{Name: "ä", Algorithm: "RSA"}, []string{"name"}},
		"small":          {pki.KeyRequest{Name: "a", Algorithm: "RSA", RSAKeySize: 1024}, []string{"rsa_key_size"}},
		"big":            {pki.KeyRequest{Name: "a", Algorithm: "RSA", RSAKeySize: 4352}, []string{"rsa_key_size"}},
		"not a multiple": {pki.KeyRequest{Name: "a", Algorithm: "RSA", RSAKeySize: 2049}, []string{"rsa_key_size"}},
		"curve for RSA":  {pki.KeyRequest{Name: "a", Algorithm: "RSA", ECCCurve: "SECP256R1"}, []string{"ecc_curve"}},
		"size for ECC":   {pki.KeyRequest{Name: "a", Algorithm: "ECC", RSAKeySize: 2048}, []string{"rsa_key_size"}},
		"curve":          {pki.KeyRequest{Name: "a", Algorithm: "ECC", ECCCurve: "SECP256K1"}, []string{"ecc_curve"}},
		"algorithm":      {pki.KeyRequest{Name: "a", Algorithm: "Ed25519"}, []string{"algorithm"}},
	} {
		require.Equal(t, c.want, fields(b.m.CreateKey(ctx, c.r)), name)
	}
	_, err := b.m.CreateRequest(ctx, pki.Request{Name: "/", CountryName: "usa", EmailAddress: "x", ValidityPeriod: -1, LocalityName: "a\nb",
		OrganizationName: fmt.Sprintf("%065d", 1), SubjectAltNames: []string{"a b", "IP:x", "URI:x", "email:x", "-a.example"}})
	require.ElementsMatch(t, []string{"name", "common_name", "country_name", "country_name", "email_address", "validity_period", "locality_name",
		"organization_name", "subject_alt_names", "subject_alt_names", "subject_alt_names", "subject_alt_names", "subject_alt_names"}, fields(err))
	_, err = b.m.CreateRequest(ctx, pki.Request{Name: "nokey", CommonName: "x"})
	require.ErrorIs(t, err, pki.ErrNotFound)
	_, err = b.m.Ingest(ctx, "nokey", testca.PEM(b.ca.Cert))
	require.ErrorIs(t, err, pki.ErrNotFound)
	require.Equal(t, pki.Counters{CSRFailure: 2, ImportFailure: 1}, b.m.Counters())
	e, _ := b.lastEvent(t)
	require.False(t, e.Permitted)
	_, err = os.Stat(filepath.Join(b.dir, "a.key"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestKeySizesInJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]pki.Int{`"2048"`: 2048, `2048`: 2048, `" 3072 "`: 3072, `null`: 0} {
		var r pki.KeyRequest
		require.NoError(t, json.Unmarshal([]byte(`{"rsa_key_size":`+text+`}`), &r))
		require.Equal(t, want, r.RSAKeySize)
	}
	for _, text := range []string{`"x"`, `2048.5`, `{}`, `true`, `1e9`, `"99999999999999999999"`} {
		var r pki.KeyRequest
		require.Error(t, json.Unmarshal([]byte(`{"rsa_key_size":`+text+`}`), &r), text)
	}
}

func TestReplaceKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	first := b.provision(t, "n")
	key1, cert1 := b.files(t, "n")

	require.ErrorIs(t, b.m.CreateKey(ctx, pki.KeyRequest{Name: "n", Algorithm: "ECC"}), pki.ErrExists)
	require.NoError(t, b.m.CreateKey(ctx, pki.KeyRequest{Name: "n", Algorithm: "ECC", Replace: true}))
	key, cert := b.files(t, "n")
	require.Equal(t, []string{key1, cert1}, []string{key, cert}, "the old pair stays until the certificate is in")
	require.True(t, b.status(t, "n").PendingKey)

	// A renewal for the old key is still taken; the new key keeps waiting.
	pair, err := b.m.GetCertificate("n")(nil)
	require.NoError(t, err)
	again := b.ca.Leaf(t, "n", pair.Leaf.PublicKey)
	_, err = b.m.Ingest(ctx, "n", testca.PEM(again))
	require.NoError(t, err)
	require.True(t, b.status(t, "n").PendingKey)

	c := b.ca.Sign(t, b.csr(t, "n"))
	require.False(t, pairEqual(c, first), "the request is of the waiting key")
	_, err = b.m.Ingest(ctx, "n", testca.PEM(c))
	require.NoError(t, err)
	require.False(t, b.status(t, "n").PendingKey)
	key2, cert2 := b.files(t, "n")
	require.NotEqual(t, key1, key2)
	require.Equal(t, string(testca.PEM(c)), cert2)
	_, err = os.Stat(filepath.Join(b.dir, "n.key.new"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, []string{"n", "n", "n"}, b.reauths)

	// After a restart the same pair is there.
	b.open(t)
	pair, err = b.m.GetCertificate("n")(nil)
	require.NoError(t, err)
	require.True(t, pair.Leaf.Equal(c))
	require.Equal(t, []string{"n", "n", "n"}, b.reauths, "a start is no replacement")
}

func pairEqual(a, b *x509.Certificate) bool {
	return string(a.RawSubjectPublicKeyInfo) == string(b.RawSubjectPublicKeyInfo)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := pki.New(pki.Config{Names: []string{"a/b"}, CheckInterval: -1, RevocationGrace: -1, Behavior: 7})
	for _, want := range []string{"Dir", "Names", "CheckInterval", "RevocationGrace", "Behavior"} {
		require.ErrorContains(t, err, want)
	}
}

// failure returns the refusal in err.
func failure(t testing.TB, err error) *verify.Failure {
	t.Helper()
	var f *verify.Failure
	require.ErrorAs(t, err, &f)
	return f
}
