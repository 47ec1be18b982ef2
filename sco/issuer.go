package sco

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mooringlib/mooring/sco/internal/jot"
)

// TokenIssuer makes onboarding tokens.
type TokenIssuer interface {
	// IssueToken makes a token for the router, valid for lifetime: one day
	// when zero, one year at most. It may be called as often as wanted and
	// stores nothing. When the configuration does not allow it, the error is
	// a [*TokenError] with every reason.
	IssueToken(ctx context.Context, router string, lifetime time.Duration) (Token, error)
}

// IssuerConfig configures an [Issuer].
type IssuerConfig struct {
	// Registry is required.
	Registry *Registry
	// Settings is required.
	Settings SettingsFunc
	// Addresses, HOST:PORT, are put into the tokens; none when empty.
	Addresses []string
	// InitialConfig, when not nil, returns opaque configuration that goes
	// into a router's token, at most 16 KiB.
	InitialConfig func(ctx context.Context, r *Router) ([]byte, error)
}

// Issuer is the library's [TokenIssuer]. It is safe for concurrent use.
type Issuer struct {
	cfg IssuerConfig
}

// NewIssuer checks the configuration.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	var errs []error
	if cfg.Registry == nil {
		errs = append(errs, errors.New("sco: IssuerConfig.Registry is missing"))
	}
	if cfg.Settings == nil {
		errs = append(errs, errors.New("sco: IssuerConfig.Settings is missing"))
	}
	if len(cfg.Addresses) > maxAddresses {
		errs = append(errs, fmt.Errorf("sco: IssuerConfig.Addresses has %d entries, the most is %d", len(cfg.Addresses), maxAddresses))
	}
	for _, a := range cfg.Addresses {
		if err := checkAddress(a); err != nil {
			errs = append(errs, fmt.Errorf("sco: IssuerConfig.Addresses: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Issuer{cfg: cfg}, nil
}

// IssueToken implements [TokenIssuer].
func (i *Issuer) IssueToken(ctx context.Context, router string, lifetime time.Duration) (Token, error) {
	reg := i.cfg.Registry
	now := reg.now()
	if lifetime == 0 {
		lifetime = defaultLifetime
	}
	if lifetime < time.Second || lifetime > maxLifetime {
		return Token{}, fmt.Errorf("sco: a token's lifetime is 1s to 1y, not %s", lifetime)
	}
	s, err := i.cfg.Settings(ctx)
	if err != nil {
		return Token{}, fmt.Errorf("sco: reading the conductor's settings: %w", err)
	}
	if s == nil {
		s = &Settings{}
	}
	reasons := s.problems(now)
	r, err := reg.Get(ctx, router)
	switch {
	case errors.Is(err, ErrNotFound):
		reasons = append(reasons, errors.New("the router is not configured"))
	case err != nil:
		return Token{}, err
	default:
		reasons = append(reasons, r.tokenProblems()...)
	}
	if len(reasons) != 0 {
		e := &TokenError{Router: router}
		for _, r := range reasons {
			e.Reasons = append(e.Reasons, r.Error())
		}
		reg.event(ctx, eventTokenIssued, e.Error(), false, eventDetail{Router: router})
		return Token{}, e
	}
	claims := &jot.Claims{
		PublicCert: s.Certificate.Raw,
		CACert:     s.CA.Raw,
		Secret:     []byte(r.Secret.value),
		Router:     r.Name,
		Addresses:  i.cfg.Addresses,
		IssuedAt:   jwt.NewNumericDate(now),
		ExpiresAt:  jwt.NewNumericDate(now.Add(lifetime)),
		ID:         rand.Text(),
	}
	for n := range r.Nodes {
		claims.AssetIDs = append(claims.AssetIDs, r.Nodes[n].AssetID)
	}
	if i.cfg.InitialConfig != nil {
		if claims.InitialConfig, err = i.cfg.InitialConfig(ctx, r); err != nil {
			return Token{}, fmt.Errorf("sco: initial configuration of router %q: %w", r.Name, err)
		}
	}
	compact, err := jot.Sign(claims, s.Key)
	if err != nil {
		return Token{}, fmt.Errorf("sco: signing a token for router %q: %w", r.Name, err)
	}
	t, err := ParseToken(compact)
	if err != nil {
		return Token{}, fmt.Errorf("sco: the new token for router %q is not valid: %w", r.Name, err)
	}
	reg.event(ctx, eventTokenIssued, fmt.Sprintf("onboarding token issued for router %q", r.Name), true,
		eventDetail{Router: r.Name, TokenID: claims.ID, Expires: claims.ExpiresAt.Time})
	return t, nil
}

// tokenProblems lists what keeps the router from getting a token.
func (r *Router) tokenProblems() []error {
	var errs []error
	if r.Mode == ModeDisabled {
		errs = append(errs, errors.New("the router's mode is disabled"))
	}
	if len(r.Nodes) == 0 {
		errs = append(errs, errors.New("the router has no node"))
	}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Name == "" {
			errs = append(errs, fmt.Errorf("node %d has no name", i+1))
		}
		if n.AssetID == "" {
			errs = append(errs, fmt.Errorf("node %d (%q) has no asset-id", i+1, n.Name))
		}
		if n.Role == "" {
			errs = append(errs, fmt.Errorf("node %d (%q) has no role", i+1, n.Name))
		}
	}
	return errs
}
