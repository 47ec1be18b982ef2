package verify_test

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/pki/verify"
)

// disagreements reads a file of lines "ID<tab>our answer<tab>why". Lines that
// begin with # are comments.
func disagreements(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "testdata", name))
	require.NoError(t, err)
	defer f.Close()
	out := map[string]string{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		if s.Text() == "" || strings.HasPrefix(s.Text(), "#") {
			continue
		}
		parts := strings.SplitN(s.Text(), "\t", 3)
		require.Len(t, parts, 3, s.Text())
		require.NotEmpty(t, parts[2], "a disagreement without a reason: %s", parts[0])
		require.NotContains(t, out, parts[0])
		out[parts[0]] = parts[1]
	}
	return out
}

// verdicts compares what we say with what is expected, and fails on every
// disagreement that the file does not name, and on every line of the file that
// is no disagreement any more.
type verdicts struct {
	known  map[string]string
	agreed int
}

func (v *verdicts) check(t *testing.T, id, want, got string, why any) {
	t.Helper()
	if want == got {
		v.agreed++
		if _, ok := v.known[id]; ok {
			t.Errorf("%s: the file names a disagreement, but we agree", id)
		}
		return
	}
	if v.known[id] != got {
		t.Errorf("%s: want %s, got %s: %v", id, want, got, why)
	}
	delete(v.known, id)
}

func (v *verdicts) end(t *testing.T) {
	t.Helper()
	for id := range v.known {
		t.Errorf("the file names %s, which is not among the cases or is agreed on", id)
	}
}

func answer(ok bool) string {
	if ok {
		return "accept"
	}
	return "refuse"
}

type limboCase struct {
	ID            string   `json:"id"`
	Trusted       []string `json:"trusted_certs"`
	Intermediates []string `json:"untrusted_intermediates"`
	Leaf          string   `json:"peer_certificate"`
	Time          string   `json:"validation_time"`
	EKU           []string `json:"extended_key_usage"`
	Expected      string   `json:"expected_result"`
	Name          struct {
		Kind, Value string
	} `json:"expected_peer_name"`
}

func TestLimbo(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(peer.NeedTestdata(t, "x509-limbo", "limbo.json"))
	require.NoError(t, err)
	var file struct{ Testcases []limboCase }
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Testcases, 135)
	v := verdicts{known: disagreements(t, "disagreements-limbo.txt")}
	for _, c := range file.Testcases {
		ok, why := runLimbo(t, c)
		v.check(t, c.ID, map[string]string{"SUCCESS": "accept", "FAILURE": "refuse"}[c.Expected], answer(ok), why)
	}
	v.end(t)
	t.Logf("%d of %d agreed", v.agreed, len(file.Testcases))
}

func runLimbo(t *testing.T, c limboCase) (bool, any) {
	t.Helper()
	now := time.Date(2024, 1, 15, 0, 0, 0, 0, time.UTC)
	if c.Time != "" {
		var err error
		now, err = time.Parse(time.RFC3339, c.Time)
		require.NoError(t, err)
	}
	parse := func(texts []string) (out []*x509.Certificate, err error) {
		for _, s := range texts {
			b, _ := pem.Decode([]byte(s))
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
		return out, nil
	}
	trusted, err := parse(c.Trusted)
	if err != nil {
		return false, err
	}
	intermediates, err := parse(c.Intermediates)
	if err != nil {
		return false, err
	}
	leaf, err := parse([]string{c.Leaf})
	if err != nil {
		return false, err
	}
	chain, issues := verify.NewTrust(trusted).Verify(leaf[0], intermediates, verify.Options{
		Now: now, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Name: c.Name.Value,
	})
	require.Equal(t, chain == nil, verify.Failed(issues) != nil, c.ID)
	return chain != nil, issues
}

type pkitsCase struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Cert      string          `json:"cert"`
	Others    []string        `json:"other_certs"`
	Error     json.RawMessage `json:"error"`
	Revoked   bool            `json:"revocation"`
	PathInter []string        `json:"path_intermediates"`
	Params    struct {
		Policies []string `json:"user_initial_policy_set"`
		Explicit bool     `json:"initial_explicit_policy"`
		Mapping  bool     `json:"initial_policy_mapping_inhibit"`
		Any      bool     `json:"initial_any_policy_inhibit"`
	} `json:"params"`
}

// needsCRL reports whether a case is about revocation lists, which this package
// does not look at.
func (c pkitsCase) needsCRL() bool {
	switch c.ID[:3] {
	case "404", "405", "414", "415":
		return true
	}
	return c.ID == "40704" || c.ID == "40705"
}

func TestPKITS(t *testing.T) {
	t.Parallel()
	dir := peer.NeedTestdata(t, "pkits")
	data, err := os.ReadFile(filepath.Join(dir, "pkits.json"))
	require.NoError(t, err)
	var cases []pkitsCase
	require.NoError(t, json.Unmarshal(data, &cases))
	root := load(t, dir, "TrustAnchorRootCertificate.crt")
	trust := verify.NewTrust([]*x509.Certificate{root})
	v := verdicts{known: disagreements(t, "disagreements-pkits.txt")}
	ran := 0
	for _, c := range cases {
		if c.needsCRL() {
			continue
		}
		ran++
		ok, why := runPKITS(t, dir, trust, c)
		v.check(t, c.ID+" "+c.Name, answer(len(c.Error) == 0), answer(ok), why)
	}
	v.end(t)
	t.Logf("%d of %d agreed", v.agreed, ran)
}

func load(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	der, err := os.ReadFile(filepath.Join(dir, "certs", name))
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

func runPKITS(t *testing.T, dir string, trust *verify.Trust, c pkitsCase) (bool, any) {
	t.Helper()
	var others []*x509.Certificate
	for _, name := range append(c.Others, c.Cert) {
		der, err := os.ReadFile(filepath.Join(dir, "certs", name))
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return false, err
		}
		others = append(others, cert)
	}
	o := verify.Options{Now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, p := range c.Params.Policies {
		oid, err := x509.ParseOID(p)
		require.NoError(t, err)
		o.Policies = append(o.Policies, oid)
	}
	last := len(others) - 1
	chain, issues := trust.Verify(others[last], others[:last], o)
	require.Equal(t, chain == nil, verify.Failed(issues) != nil, c.ID)
	return chain != nil, issues
}
