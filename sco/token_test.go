package sco_test

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

func TestParseLifetime(t *testing.T) {
	day := 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"1s": time.Second, "2m": 2 * time.Minute, "3h": 3 * time.Hour, "4d": 4 * day, "5mo": 150 * day, "1y": 365 * day,
		"1d12h": 36 * time.Hour, "12h1d": 36 * time.Hour, "365d": 365 * day, "2mo3m": 60*day + 3*time.Minute,
		"1s2m3h4d5mo": time.Second + 2*time.Minute + 3*time.Hour + 154*day,
	} {
		got, err := sco.ParseLifetime(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "1", "d", "0s", "0d", "-1d", "+1d", "1.5h", "1w", "1D", " 1d", "1d ", "1 d", "1d1d", "2y", "366d", "1y1s",
		"13mo", "99999999999s", "1000000000s", "1dd", "1mo2", "0x1d", strings.Repeat("9", 100) + "d"} {
		_, err := sco.ParseLifetime(s)
		require.Error(t, err, s)
		require.NotContains(t, err.Error(), "\n")
		require.Less(t, len(err.Error()), 200)
	}
}

func TestTokenClaims(t *testing.T) {
	w := newWorld(t, withKey(sharedRSA(t)))
	w.router("r", sco.ModeStrong, func(r *sco.Router) {
		r.Nodes = append(r.Nodes, sco.Node{Name: "node1", AssetID: "r-1", Role: "combo"})
	})
	i, err := sco.NewIssuer(sco.IssuerConfig{Registry: w.reg, Settings: w.getSettings, Addresses: []string{"192.0.2.1:933"},
		InitialConfig: func(_ context.Context, r *sco.Router) ([]byte, error) { return []byte("for " + r.Name), nil }})
	require.NoError(t, err)
	tok, err := i.IssueToken(context.Background(), "r", 2*time.Hour)
	require.NoError(t, err)
	// A plain JWT library reads and verifies it.
	parsed, err := jwt.Parse(tok.Reveal(), func(*jwt.Token) (any, error) { return sharedRSA(t).Public(), nil }, jwt.WithValidMethods([]string{"PS256"}))
	require.NoError(t, err)
	c := parsed.Claims.(jwt.MapClaims)
	s := w.settings.Load()
	require.Equal(t, base64.StdEncoding.EncodeToString(s.Certificate.Raw), c["conductor-public-cert"])
	require.Equal(t, base64.StdEncoding.EncodeToString(s.CA.Raw), c["conductor-ca-cert"])
	r, err := w.reg.Get(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte(r.Secret.Reveal())), c["secret"])
	require.Equal(t, []any{"r-0", "r-1"}, c["asset-id"])
	require.Equal(t, "r", c["router"])
	require.Equal(t, []any{"192.0.2.1:933"}, c["conductor-addresses"])
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte("for r")), c["initial-config"])
	require.EqualValues(t, 7200, c["exp"].(float64)-c["iat"].(float64))
	require.NotEmpty(t, c["jti"])
	require.Equal(t, []string{"r-0", "r-1"}, tok.AssetIDs())
	require.Equal(t, []string{"192.0.2.1:933"}, tok.Addresses())

	again, err := i.IssueToken(context.Background(), "r", 0)
	require.NoError(t, err)
	require.NotEqual(t, tok.Reveal(), again.Reveal())
	require.WithinDuration(t, time.Now().Add(24*time.Hour), again.Expires(), time.Minute)
	for _, d := range []time.Duration{-1, time.Millisecond, 366 * 24 * time.Hour} {
		_, err = i.IssueToken(context.Background(), "r", d)
		require.ErrorContains(t, err, "1s to 1y")
	}
	require.Len(t, w.events.of("sco.token_issued"), 2)
	for _, e := range w.events.all {
		require.NotContains(t, fmt.Sprint(e), r.Secret.Reveal())
	}
	// Two nodes: the router has to say which one it is.
	_, err = w.onboard(t.TempDir(), tok, nil)
	require.ErrorContains(t, err, "AssetID is missing")
	_, err = w.onboard(t.TempDir(), tok, nil, func(c *sco.OnboardConfig) { c.AssetID = "r-2" })
	require.ErrorContains(t, err, "not one of the token's")
}

func TestTokenAlgorithmsFollowTheKey(t *testing.T) {
	for alg, opt := range map[string]option{
		"PS256": withKey(sharedRSA(t)), "ES256": withKey(ecKey(t, elliptic.P256())), "ES384": withKey(ecKey(t, elliptic.P384())),
	} {
		w := newWorld(t, opt)
		w.router("r", sco.ModePSKOnly)
		head, _, _ := strings.Cut(w.token("r").Reveal(), ".")
		b, err := base64.RawURLEncoding.DecodeString(head)
		require.NoError(t, err)
		require.JSONEq(t, `{"alg":"`+alg+`","typ":"JWT"}`, string(b))
	}
}

func TestTokenRefusals(t *testing.T) {
	good := func(w *world) { w.router("r", sco.ModePSKOnly) }
	other := newAuthority(t, "other")
	key := ecKey(t, elliptic.P256())
	window := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	for name, c := range map[string]struct {
		prepare func(*world)
		change  func(*world, *sco.Settings)
		reasons []string
	}{
		"no CA":          {good, func(_ *world, s *sco.Settings) { s.CA = nil }, []string{"ca-certificate is missing"}},
		"no certificate": {good, func(_ *world, s *sco.Settings) { s.Certificate = nil }, []string{"public-certificate is missing"}},
		"no key":         {good, func(_ *world, s *sco.Settings) { s.Key = nil }, []string{"key of public-certificate is missing"}},
		"CA expired": {good, func(w *world, _ *sco.Settings) { w.offset.Store(int64(1100 * time.Hour)) },
			[]string{"ca-certificate expired", "public-certificate expired"}},
		"CA not yet valid": {good, func(w *world, _ *sco.Settings) { w.offset.Store(-int64(100 * time.Hour)) },
			[]string{"ca-certificate is not valid before", "public-certificate is not valid before"}},
		"certificate expired": {good, func(w *world, s *sco.Settings) { s.Certificate = w.ca.issue(t, s.Key.Public(), window(-9, -1)) },
			[]string{"public-certificate expired"}},
		"certificate not yet valid": {good, func(w *world, s *sco.Settings) {
			s.Certificate = w.ca.issue(t, s.Key.Public(), window(time.Hour, 2*time.Hour))
		},
			[]string{"public-certificate is not valid before"}},
		"certificate of another CA": {good, func(_ *world, s *sco.Settings) { s.Certificate = other.issue(t, s.Key.Public(), nil) },
			[]string{"public-certificate is not signed by ca-certificate"}},
		"key of another certificate": {good, func(_ *world, s *sco.Settings) { s.Key = key }, []string{"the key does not match"}},
		"unknown router":             {func(*world) {}, func(*world, *sco.Settings) {}, []string{"the router is not configured"}},
		"disabled":                   {func(w *world) { w.router("r", sco.ModeDisabled) }, func(*world, *sco.Settings) {}, []string{"mode is disabled"}},
		"no node": {func(w *world) { w.router("r", sco.ModePSKOnly, func(r *sco.Router) { r.Nodes = nil }) },
			func(*world, *sco.Settings) {}, []string{"the router has no node"}},
		"bare nodes": {func(w *world) {
			w.router("r", sco.ModePSKOnly, func(r *sco.Router) { r.Nodes = []sco.Node{{}, {Name: "n", AssetID: "a"}} })
		}, func(*world, *sco.Settings) {}, []string{"node 1 has no name", "no asset-id", "no role", `node 2 ("n") has no role`}},
		"everything at once": {func(w *world) { w.router("r", sco.ModeDisabled, func(r *sco.Router) { r.Nodes = nil }) },
			func(_ *world, s *sco.Settings) { *s = sco.Settings{} },
			[]string{"ca-certificate is missing", "public-certificate is missing", "key of public-certificate is missing", "mode is disabled", "no node"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.prepare(w)
			w.change(func(s *sco.Settings) { c.change(w, s) })
			_, err := w.issuer().IssueToken(context.Background(), "r", 0)
			var te *sco.TokenError
			require.ErrorAs(t, err, &te)
			require.Equal(t, "r", te.Router)
			for _, r := range c.reasons {
				require.ErrorContains(t, err, r)
			}
			require.NotContains(t, err.Error(), "\n")
			ev := w.events.of("sco.token_issued")
			require.Len(t, ev, 1)
			require.False(t, ev[0].Permitted)
		})
	}
}

func TestTokenInvalidation(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		change func(*testing.T, *world)
		reason string
		known  bool
	}{
		"expiry": {func(_ *testing.T, w *world) { w.offset.Store(int64(25 * time.Hour)) }, "the token has expired", true},
		"changed secret": {func(_ *testing.T, w *world) {
			w.router("r", sco.ModePSKOnly, func(r *sco.Router) { r.Secret = sco.NewSecret() })
		}, "does not know the router's present secret", true},
		"disabled": {func(_ *testing.T, w *world) { w.router("r", sco.ModeDisabled) }, "mode is disabled", true},
		"removed":  {func(t *testing.T, w *world) { require.NoError(t, w.reg.Remove(ctx, "r")) }, "no router of this name", false},
		"renewed certificate, same key": {func(t *testing.T, w *world) {
			w.change(func(s *sco.Settings) { s.Certificate = w.ca.issue(t, s.Key.Public(), nil) })
		}, "certificate was changed", true},
		"other CA certificate, same keys": {func(t *testing.T, w *world) {
			tmpl := *w.ca.cert
			der, err := x509.CreateCertificate(rand.Reader, &tmpl, &tmpl, w.ca.key.Public(), w.ca.key)
			require.NoError(t, err)
			ca, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			w.change(func(s *sco.Settings) { s.CA = ca })
		}, "certificate was changed", true},
		"other key": {func(t *testing.T, w *world) {
			key := ecKey(t, elliptic.P256())
			w.change(func(s *sco.Settings) { s.Key, s.Certificate = key, w.ca.issue(t, key.Public(), nil) })
		}, "issued with another key", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.router("r", sco.ModePSKOnly)
			token := w.token("r")
			c.change(t, w)
			m := w.mallory(token.Reveal(), sco.NoDeviceKey())
			m.sendHello(nil)
			m.refused()
			require.Contains(t, w.events.reason(t), c.reason)
			if c.known {
				require.Contains(t, w.node("r", "r-0").Status.LastError, c.reason)
			}
			_, err := w.onboard(t.TempDir(), token, nil)
			require.Error(t, err)
			if strings.Contains(name, "certificate") || name == "other key" {
				// The router finds out by itself, before it says anything,
				// where the conductor's own certificate is another.
				if !strings.Contains(name, "CA") {
					require.ErrorIs(t, err, sco.ErrConductor)
				}
			}
		})
	}
}

// TestForgedTokens alters tokens in ways that a holder of the secret can.
func TestForgedTokens(t *testing.T) {
	w := newWorld(t, withKey(sharedRSA(t)))
	w.router("r", sco.ModePSKOnly)
	token := w.token("r").Reveal()
	for name, change := range map[string]func(*wire.Token){
		"later expiry":    func(x *wire.Token) { x.After = []byte(strings.Replace(string(x.After), `"exp":1`, `"exp":9`, 1)) },
		"alg none":        func(x *wire.Token) { x.Header, x.Signature = []byte(`{"alg":"none","typ":"JWT"}`), nil },
		"alg HS256":       func(x *wire.Token) { x.Header = []byte(`{"alg":"HS256","typ":"JWT"}`) },
		"critical header": func(x *wire.Token) { x.Header = []byte(`{"alg":"PS256","typ":"JWT","crit":["x"],"x":1}`) },
		"own key":         func(x *wire.Token) { x.Header = []byte(`{"alg":"PS256","jwk":{}}`) },
		"no header":       func(x *wire.Token) { x.Header = nil },
		"no payload":      func(x *wire.Token) { x.Before, x.After = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			m := w.mallory(token, sco.NoDeviceKey())
			m.sendHello(func(h *wire.Hello) {
				change(&h.Token)
				jwt := joined(t, h.Token, string(m.token.Claims.Secret))
				m.tr.TokenHash = sha(jwt)
				m.keys = wire.NewKeys(string(m.token.Claims.Secret), m.tr.TokenHash)
			})
			m.refused()
			require.Contains(t, w.events.reason(t), "the token was altered")
		})
	}
	// RS256 by the conductor's key is accepted, as the key's type allows it.
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(token, claims)
	require.NoError(t, err)
	rs, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(w.settings.Load().Key.(*rsa.PrivateKey))
	require.NoError(t, err)
	parsed, err := sco.ParseToken(rs)
	require.NoError(t, err)
	_, err = w.onboard(t.TempDir(), parsed, nil)
	require.NoError(t, err)
}

func TestParseTokenRejects(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	good := w.token("r").Reveal()
	_, err := sco.ParseToken(" \n" + good + "\n")
	require.NoError(t, err)
	parts := strings.Split(good, ".")
	for name, s := range map[string]string{
		"empty":     "",
		"no dots":   "abc",
		"many dots": strings.Repeat(".", 1000),
		"long":      strings.Repeat("a", 100_000),
		"cut":       good[:len(good)-3],
		"altered":   parts[0] + "." + parts[1][:8] + string(parts[1][8]^1) + parts[1][9:] + "." + parts[2],
		"base64":    parts[0] + ".!!." + parts[2],
		"not JSON":  parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("{")) + "." + parts[2],
		"no claims": parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("{}")) + "." + parts[2],
		"signature": parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
	} {
		_, err := sco.ParseToken(s)
		require.Error(t, err, name)
		require.Less(t, len(err.Error()), 300, name)
		if len(s) > 40 {
			require.NotContains(t, err.Error(), s[:40], name)
		}
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	r, err := w.reg.Get(context.Background(), "r")
	require.NoError(t, err)
	secret := r.Secret.Reveal()
	require.Len(t, secret, 48)
	oc := sco.OnboardingConfig{Token: token}
	cfg := sco.OnboardConfig{Token: token}
	for _, leak := range []string{secret, token.Reveal(), token.Reveal()[:60]} {
		for _, v := range []any{r, *r, r.Secret, &r.Secret, token, &token, oc, &oc, cfg, &cfg, []sco.Secret{r.Secret}, map[string]sco.Token{"a": token}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				require.NotContains(t, fmt.Sprintf(verb, v), leak, "%s of %T", verb, v)
			}
			var b strings.Builder
			slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
			slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
			require.NotContains(t, b.String(), leak, "%T in a log", v)
		}
		for _, v := range []any{r, r.Secret, token, oc} {
			b, err := json.Marshal(v)
			require.NoError(t, err)
			require.NotContains(t, string(b), leak)
		}
	}
	b, err := sco.EncodeRouter(r)
	require.NoError(t, err)
	require.Contains(t, string(b), secret)
	back, err := sco.DecodeRouter(b)
	require.NoError(t, err)
	require.Equal(t, r, back)
	_, err = sco.DecodeRouter(append(b, '{'))
	require.Error(t, err)
}

func TestParseSecret(t *testing.T) {
	good := strings.Repeat("aZ9", 16)
	s, err := sco.ParseSecret(good)
	require.NoError(t, err)
	require.Equal(t, good, s.Reveal())
	for _, bad := range []string{"", good[1:], good + "a", good[1:] + "-", good[1:] + "é", good[2:] + "é"} {
		_, err := sco.ParseSecret(bad)
		require.Error(t, err)
		if bad != "" {
			require.NotContains(t, err.Error(), bad)
		}
	}
	seen := map[string]bool{}
	for range 100 {
		s := sco.NewSecret()
		_, err := sco.ParseSecret(s.Reveal())
		require.NoError(t, err)
		require.False(t, seen[s.Reveal()])
		seen[s.Reveal()] = true
	}
}

func TestOnboardingConfig(t *testing.T) {
	w := newWorld(t)
	w.router("r", sco.ModePSKOnly)
	token := w.token("r")
	b, err := (&sco.OnboardingConfig{Token: token, Addresses: []string{"conductor.example:933", "[2001:db8::1]:933"}, AssetID: "r-0"}).Reveal()
	require.NoError(t, err)
	c, err := sco.ParseOnboardingConfig(b)
	require.NoError(t, err)
	require.Equal(t, "r-0", c.AssetID)
	require.Len(t, c.Addresses, 2)
	require.Equal(t, token.Reveal(), c.Token.Reveal())

	c, err = sco.ParseOnboardingConfig([]byte(`{"token":"` + token.Reveal() + `"}`))
	require.NoError(t, err)
	require.Equal(t, "r-0", c.AssetID)
	require.Equal(t, []string{w.addr}, c.Addresses)
	for _, bad := range []string{``, `[]`, `{}`, `{"token":"x"}`, `{"token":"` + token.Reveal() + `","other":1}`, string(b) + "{}",
		`{"token":"` + token.Reveal() + `","conductor-addresses":["nope"]}`, `{"token":"` + token.Reveal() + `","asset-id":"a b"}`,
		strings.Repeat(" ", 300<<10)} {
		_, err := sco.ParseOnboardingConfig([]byte(bad))
		require.Error(t, err)
		require.NotContains(t, err.Error(), token.Reveal()[:30])
	}
}

func TestConfigurationErrorsAllAtOnce(t *testing.T) {
	_, err := sco.NewIssuer(sco.IssuerConfig{Addresses: []string{"x"}})
	require.ErrorContains(t, err, "Registry is missing")
	require.ErrorContains(t, err, "Settings is missing")
	require.ErrorContains(t, err, `"x" is not HOST:PORT`)
	_, err = sco.NewConductor(sco.ConductorConfig{Limits: sco.Limits{Connections: -1}})
	require.ErrorContains(t, err, "Registry is missing")
	require.ErrorContains(t, err, "Settings is missing")
	require.ErrorContains(t, err, "negative")
	_, err = sco.NewRegistry(sco.RegistryConfig{})
	require.ErrorContains(t, err, "Store is missing")
	_, err = sco.Onboard(context.Background(), sco.OnboardConfig{})
	for _, s := range []string{"Dir is missing", "Token is missing", "Addresses has 0"} {
		require.ErrorContains(t, err, s)
	}
	var te *sco.TokenError
	require.False(t, errors.As(err, &te))
}
