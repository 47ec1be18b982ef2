package rest_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/rest"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// guard lets "admin" in and has the one token "T".
type guard struct {
	limited bool
	from    string
}

type tooMany struct{}

func (tooMany) Error() string        { return "too many" }
func (tooMany) Retry() time.Duration { return 9 * time.Second }

func (g *guard) Login(_ context.Context, from, user, password string) (string, time.Time, error) {
	g.from = from
	switch {
	case g.limited:
		return "", time.Time{}, tooMany{}
	case user == "admin" && password == "TheAdminPassword1234":
		return "T", start, nil
	}
	return "", time.Time{}, errors.New("the password was " + password)
}

func (g *guard) Authenticate(_ context.Context, token string) (string, error) {
	if token == "T" {
		return "admin", nil
	}
	return "", errors.New("no")
}

type events struct {
	mu   sync.Mutex
	list []mooring.Event
}

func (e *events) RecordEvent(_ context.Context, ev mooring.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

type bench struct {
	h     http.Handler
	m     *pki.Manager
	ca    *testca.CA
	guard *guard
	ev    *events
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{ca: testca.Root(t, "root", start), guard: &guard{}, ev: &events{}}
	var err error
	b.m, err = pki.New(pki.Config{Dir: t.TempDir(), Now: func() time.Time { return start }})
	require.NoError(t, err)
	require.NoError(t, b.m.Open(t.Context()))
	_, err = b.m.AddTrust(t.Context(), "root", testca.PEM(b.ca.Cert), pki.Strict)
	require.NoError(t, err)
	b.h, err = rest.New(rest.Config{Manager: b.m, Auth: b.guard, Events: b.ev, Node: "n", Now: func() time.Time { return start }})
	require.NoError(t, err)
	return b
}

func (b *bench) call(t testing.TB, method, path, token, body string) (int, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var out map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out), w.Body.String())
	return w.Code, out
}

func TestFlow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	code, out := b.call(t, "POST", "/api/v1/login", "", `{"username":"admin","password":"TheAdminPassword1234","application":"GUI"}`)
	require.Equal(t, 200, code)
	require.Equal(t, map[string]any{"token": "T"}, out)

	code, _ = b.call(t, "POST", "/api/v1/private-key", "T", `{"name": "custom_ssr_peering", "algorithm": "RSA", "rsa_key_size": "2048"}`)
	require.Equal(t, 200, code)
	code, out = b.call(t, "POST", "/api/v1/private-key", "T", `{"name": "custom_ssr_peering", "algorithm": "RSA", "rsa_key_size": 2048}`)
	require.Equal(t, 409, code)
	require.Equal(t, "exists", out["code"])
	for _, curve := range []string{"SECP256R1", "SECP256R"} {
		code, _ = b.call(t, "POST", "/api/v1/private-key", "T", fmt.Sprintf(`{"name": %q, "algorithm": "ECC", "ecc_curve": %q}`, curve, curve))
		require.Equal(t, 200, code)
	}

	var csr string
	for _, method := range []string{"GET", "POST"} {
		code, out = b.call(t, method, "/api/v1/certificate-request", "T", `{"name": "custom_ssr_peering", "common_name": "SSR_12345679"}`)
		require.Equal(t, 200, code)
		require.Len(t, out, 1)
		csr = out["csr"].(string)
	}
	cert := string(testca.PEM(b.ca.Sign(t, []byte(csr))))
	for name, text := range map[string]string{
		"escaped":           strings.ReplaceAll(cert, "\n", `\n`),
		"real line breaks":  cert,
		"no line breaks":    strings.ReplaceAll(cert, "\n", ""),
		"carriage returns":  strings.ReplaceAll(cert, "\n", "\r\n"),
		"text around":       "Certificate:\n    Data:\n" + cert + "\nbye",
		"with its root too": cert + string(testca.PEM(b.ca.Cert)),
	} {
		code, out = b.call(t, "POST", "/api/v1/certificate", "T", `{"name": "custom_ssr_peering", "certificate": "`+text+`"}`)
		require.Equal(t, 200, code, "%s: %v", name, out)
		require.Equal(t, true, out["accepted"])
		require.Len(t, out["checks"], 3)
	}

	code, out = b.call(t, "GET", "/api/v1/certificate", "T", "")
	require.Equal(t, 200, code)
	require.Len(t, out["certificates"], 3)
	code, out = b.call(t, "GET", "/api/v1/certificate/custom_ssr_peering", "T", "")
	require.Equal(t, 200, code)
	require.Equal(t, cert, out["certificate"])
	require.Equal(t, "CN = SSR_12345679", out["detail"].(map[string]any)["subject"])
	code, _ = b.call(t, "GET", "/api/v1/certificate/other", "T", "")
	require.Equal(t, 404, code)
}

func TestAltNamesUnderBothNames(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, field := range []string{"subject_alt_names", "subjectAltNames"} {
		code, out := b.call(t, "POST", "/api/v1/certificate-request", "T", `{"name":"n","common_name":"c","algorithm":"ECC","`+field+`":["a.example","IP:192.0.2.1"]}`)
		require.Equal(t, 200, code, out)
		block, _ := pem.Decode([]byte(out["csr"].(string)))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		require.NoError(t, err)
		require.Equal(t, []string{"a.example"}, csr.DNSNames)
		require.Len(t, csr.IPAddresses, 1)
	}
	code, out := b.call(t, "POST", "/api/v1/certificate-request", "T", `{"name":"n","common_name":"c","subject_alt_names":["a"],"subjectAltNames":["b"]}`)
	require.Equal(t, 400, code)
	require.Equal(t, "subjectAltNames", out["field"])
	code, out = b.call(t, "POST", "/api/v1/certificate-request", "T", `{"name":7}`)
	require.Equal(t, 400, code)
	require.Equal(t, "name", out["field"])
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	key := string(testca.PEM(b.ca.Cert)) + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	_, _ = b.call(t, "POST", "/api/v1/private-key", "T", `{"name":"n","algorithm":"ECC"}`)
	for name, c := range map[string]struct {
		method, path, token, body string
		status                    int
		code, field               string
	}{
		"no token":          {"POST", "/api/v1/private-key", "", `{}`, 401, "unauthorized", ""},
		"bad token":         {"POST", "/api/v1/certificate", "X", `{}`, 401, "unauthorized", ""},
		"token before all":  {"POST", "/api/v1/certificate", "X", strings.Repeat("x", 1<<20), 401, "unauthorized", ""},
		"list":              {"GET", "/api/v1/certificate", "", ``, 401, "unauthorized", ""},
		"no body":           {"POST", "/api/v1/private-key", "T", "", 400, "invalid_json", ""},
		"not JSON":          {"POST", "/api/v1/private-key", "T", "name=a", 400, "invalid_json", ""},
		"an array":          {"POST", "/api/v1/private-key", "T", "[]", 400, "invalid_request", ""},
		"two objects":       {"POST", "/api/v1/private-key", "T", `{"name":"a","algorithm":"ECC"}{}`, 400, "invalid_json", ""},
		"unknown field":     {"POST", "/api/v1/private-key", "T", `{"rsa_keysize":2048}`, 400, "invalid_request", "rsa_keysize"},
		"bad name":          {"POST", "/api/v1/private-key", "T", `{"name":"../x","algorithm":"RSA"}`, 400, "invalid_request", "name"},
		"size":              {"POST", "/api/v1/private-key", "T", `{"name":"x","algorithm":"RSA","rsa_key_size":"1024"}`, 400, "invalid_request", "rsa_key_size"},
		"size in words":     {"POST", "/api/v1/private-key", "T", `{"name":"x","algorithm":"RSA","rsa_key_size":"many"}`, 400, "invalid_json", ""},
		"number as name":    {"POST", "/api/v1/private-key", "T", `{"name":7}`, 400, "invalid_request", "name"},
		"no common name":    {"GET", "/api/v1/certificate-request", "T", `{"name":"n"}`, 400, "invalid_request", "common_name"},
		"no key":            {"GET", "/api/v1/certificate-request", "T", `{"name":"x","common_name":"c"}`, 404, "not_found", "name"},
		"large":             {"POST", "/api/v1/private-key", "T", `{"name":"` + strings.Repeat("x", 17<<10) + `"}`, 413, "too_large", ""},
		"large certificate": {"POST", "/api/v1/certificate", "T", `{"certificate":"` + strings.Repeat("x", 513<<10) + `"}`, 413, "too_large", ""},
		"no certificate":    {"POST", "/api/v1/certificate", "T", `{"name":"n"}`, 400, "invalid_request", "certificate"},
		"refused":           {"POST", "/api/v1/certificate", "T", `{"name":"n","certificate":"` + string(testca.PEM(b.ca.Cert)) + `"}`, 422, "certificate_refused", "certificate"},
		"private key":       {"POST", "/api/v1/certificate", "T", `{"name":"n","certificate":"` + key + `"}`, 422, "certificate_refused", "certificate"},
		"method":            {"DELETE", "/api/v1/certificate", "T", ``, 405, "method_not_allowed", ""},
		"path":              {"GET", "/api/v2", "T", ``, 404, "not_found", ""},
		"login GET":         {"GET", "/api/v1/login", "", ``, 405, "method_not_allowed", ""},
	} {
		before := len(b.ev.list)
		status, out := b.call(t, c.method, c.path, c.token, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, out)
		require.Equal(t, c.code, out["code"], name)
		require.NotEmpty(t, out["message"], name)
		if c.field != "" {
			require.Equal(t, c.field, out["field"], name)
		}
		require.Len(t, b.ev.list, before+1, "%s: not audited", name)
		require.False(t, b.ev.list[before].Permitted, name)
	}
}

func TestLoginRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	code1, wrong := b.call(t, "POST", "/api/v1/login", "", `{"username":"admin","password":"secret-1"}`)
	code2, unknown := b.call(t, "POST", "/api/v1/login", "", `{"username":"nobody","password":"secret-1"}`)
	require.Equal(t, 401, code1)
	require.Equal(t, code1, code2)
	require.Equal(t, wrong, unknown)
	b.guard.limited = true
	code, out := b.call(t, "POST", "/api/v1/login", "", `{"username":"admin","password":"TheAdminPassword1234"}`)
	require.Equal(t, 429, code)
	require.Equal(t, "too_many_attempts", out["code"])
	for _, e := range b.ev.list {
		require.Equal(t, "system.login", e.Type)
		require.NotContains(t, string(e.Detail)+e.Description, "secret-1")
		require.NotContains(t, string(e.Detail)+e.Description, "nobody")
	}
}

// TestStrangersCannotFloodTheAudit calls without a token, as anybody can.
func TestStrangersCannotFloodTheAudit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, _ = b.call(t, "POST", "/api/v1/private-key", "T", `{"name":"n","algorithm":"ECC"}`)
	b.ev.list = nil
	for range 100 {
		_, _ = b.call(t, "GET", "/api/v1/certificate", "", "")
		_, _ = b.call(t, "GET", "/nothing", "", "")
		_, _ = b.call(t, "POST", "/api/v1/login", "", `{"username":"admin","password":"wrong"}`)
	}
	require.Equal(t, "192.0.2.1", b.guard.from)
	flood := len(b.ev.list)
	require.GreaterOrEqual(t, flood, 10)
	require.LessOrEqual(t, flood, 60)
	// Users are recorded all the same, and how much was left out too.
	for n := range 5 {
		_, _ = b.call(t, "GET", "/api/v1/certificate", "T", "")
		require.Len(t, b.ev.list, flood+n+1)
	}
	require.Contains(t, string(b.ev.list[flood].Detail), fmt.Sprintf(`"not_recorded":%d`, 300-flood))
	require.NotContains(t, string(b.ev.list[flood+1].Detail), "not_recorded")
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := rest.New(rest.Config{})
	require.Error(t, err)
}

func FuzzBodies(f *testing.F) {
	b := newBench(f)
	_, _ = b.call(f, "POST", "/api/v1/private-key", "T", `{"name":"n","algorithm":"ECC"}`)
	for _, s := range []string{`{"name":"n","common_name":"c"}`, `{"name":"n","certificate":"-----BEGIN CERTIFICATE-----"}`, `{"rsa_key_size":"2048"}`, "{\"name\":\"\n\"}"} {
		for path := range 4 {
			f.Add(path, []byte(s))
		}
	}
	paths := []string{"POST /api/v1/login", "POST /api/v1/certificate-request", "POST /api/v1/certificate", "GET /api/v1/certificate-request"}
	f.Fuzz(func(t *testing.T, n int, body []byte) {
		method, path, _ := strings.Cut(paths[uint(n)%uint(len(paths))], " ")
		r := httptest.NewRequest(method, path, bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer T")
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if data, err := io.ReadAll(w.Body); err != nil || !json.Valid(data) {
			t.Fatalf("not JSON: %q", data)
		}
	})
}
