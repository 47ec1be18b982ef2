package sco

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/mooringlib/mooring/sco/internal/jot"
)

// Token is an onboarding token. It holds the router's secret, so it never
// prints itself: String, Format, LogValue and MarshalJSON give a placeholder,
// and only [Token.Reveal] gives the characters.
type Token struct {
	jwt    string
	parsed *jot.Token
}

// ParseToken reads a token, white space around it ignored, and checks that it
// is whole and was not altered. Whether it is still valid is for the conductor
// to say. Errors do not repeat the token.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	p, err := jot.Parse(s)
	if err != nil {
		return Token{}, fmt.Errorf("sco: not an onboarding token: %w", err)
	}
	if _, err := ParseSecret(string(p.Claims.Secret)); err != nil {
		return Token{}, fmt.Errorf("sco: not an onboarding token: %w", err)
	}
	if err := checkName("router", p.Claims.Router); err != nil {
		return Token{}, fmt.Errorf("sco: not an onboarding token: %w", err)
	}
	for _, a := range p.Claims.Addresses {
		if err := checkAddress(a); err != nil {
			return Token{}, fmt.Errorf("sco: not an onboarding token: %w", err)
		}
	}
	return Token{jwt: s, parsed: p}, nil
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.parsed == nil }

// Reveal returns the JSON Web Token. The caller keeps it out of logs.
func (t Token) Reveal() string { return t.jwt }

// Router is the name of the router that the token is for.
func (t Token) Router() string {
	if t.IsZero() {
		return ""
	}
	return t.parsed.Claims.Router
}

// AssetIDs are those of the router's nodes.
func (t Token) AssetIDs() []string {
	if t.IsZero() {
		return nil
	}
	return append([]string(nil), t.parsed.Claims.AssetIDs...)
}

// Addresses are the conductors' addresses that the token carries, if any.
func (t Token) Addresses() []string {
	if t.IsZero() {
		return nil
	}
	return append([]string(nil), t.parsed.Claims.Addresses...)
}

// Expires is when the conductor stops accepting the token.
func (t Token) Expires() time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.parsed.Claims.ExpiresAt.Time
}

func (t Token) hash() [32]byte { return sha256.Sum256([]byte(t.jwt)) }

// String returns a placeholder.
func (t Token) String() string { return redacted }

// Format writes a placeholder, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns a placeholder.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes a placeholder.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// ParseLifetime reads time short-hand: a whole number and one of s, m, h, d,
// mo (30 days) and y (365 days), or several of these one after the other, each
// unit once, such as "1d12h". At most one year.
func ParseLifetime(s string) (time.Duration, error) {
	bad := fmt.Errorf("sco: %.40q is not a lifetime: write a number and s, m, h, d, mo or y, such as 1d, at most 1y", s)
	units := []struct {
		name string
		unit time.Duration
	}{{"mo", 30 * 24 * time.Hour}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"y", maxLifetime}}
	var total time.Duration
	seen := map[string]bool{}
	rest := s
	for rest != "" {
		var n int64
		digits := 0
		for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' && digits < 9 {
			n = n*10 + int64(rest[digits]-'0')
			digits++
		}
		if digits == 0 {
			return 0, bad
		}
		rest = rest[digits:]
		found := false
		for _, u := range units {
			if strings.HasPrefix(rest, u.name) && !seen[u.name] {
				if n > int64(maxLifetime/u.unit) {
					return 0, fmt.Errorf("sco: lifetime %.40q is longer than 1y", s)
				}
				total += time.Duration(n) * u.unit
				rest, seen[u.name], found = rest[len(u.name):], true, true
				break
			}
		}
		if !found {
			return 0, bad
		}
	}
	if total <= 0 {
		return 0, bad
	}
	if total > maxLifetime {
		return 0, fmt.Errorf("sco: lifetime %.40q is longer than 1y", s)
	}
	return total, nil
}

// OnboardingConfig is the file that brings a token to a router.
type OnboardingConfig struct {
	Token Token
	// Addresses are the conductors', HOST:PORT, in the order of preference.
	Addresses []string
	AssetID   string
}

type onboardingFile struct {
	Token     string   `json:"token"`
	Addresses []string `json:"conductor-addresses,omitempty"`
	AssetID   string   `json:"asset-id,omitempty"`
}

// ParseOnboardingConfig reads onboarding-config.json: an object with token,
// conductor-addresses and asset-id. The addresses may be left out where the
// token carries them, and the asset-id where the token has only one.
func ParseOnboardingConfig(b []byte) (*OnboardingConfig, error) {
	if len(b) > maxOnboardingConfig {
		return nil, fmt.Errorf("sco: onboarding configuration has %d bytes, the most is %d", len(b), maxOnboardingConfig)
	}
	var f onboardingFile
	if err := strictJSON(b, &f); err != nil {
		// A JSON error may quote a part of the file, which holds a token.
		return nil, errors.New("sco: onboarding configuration is not a JSON object with token, conductor-addresses and asset-id")
	}
	if f.Token == "" {
		return nil, errors.New("sco: onboarding configuration has no token")
	}
	t, err := ParseToken(f.Token)
	if err != nil {
		return nil, err
	}
	c := &OnboardingConfig{Token: t, Addresses: f.Addresses, AssetID: f.AssetID}
	if len(c.Addresses) == 0 {
		c.Addresses = t.Addresses()
	}
	if len(c.Addresses) > maxAddresses {
		return nil, fmt.Errorf("sco: onboarding configuration has %d addresses, the most is %d", len(c.Addresses), maxAddresses)
	}
	for _, a := range c.Addresses {
		if err := checkAddress(a); err != nil {
			return nil, fmt.Errorf("sco: onboarding configuration: %w", err)
		}
	}
	if ids := t.AssetIDs(); c.AssetID == "" && len(ids) == 1 {
		c.AssetID = ids[0]
	}
	if c.AssetID != "" {
		if err := checkAssetID(c.AssetID); err != nil {
			return nil, fmt.Errorf("sco: onboarding configuration: %w", err)
		}
	}
	return c, nil
}

// Reveal returns the file's content, which holds the token in clear.
func (c *OnboardingConfig) Reveal() ([]byte, error) {
	b, err := json.MarshalIndent(onboardingFile{Token: c.Token.Reveal(), Addresses: c.Addresses, AssetID: c.AssetID}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("sco: %w", err)
	}
	return append(b, '\n'), nil
}
