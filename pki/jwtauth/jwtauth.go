package jwtauth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

var (
	// ErrRefused is the answer to a wrong password and to an unknown user.
	ErrRefused = errors.New("jwtauth: user name or password is wrong")
	// ErrToken is the answer to every token that is not one of ours, or ended.
	ErrToken = errors.New("jwtauth: token is not valid; log in again")
)

// LimitedError is the answer to too many attempts.
type LimitedError struct {
	// RetryAfter is when the next attempt is worth while.
	RetryAfter time.Duration
}

// Retry returns RetryAfter, for handlers that do not know this type.
func (e *LimitedError) Retry() time.Duration { return e.RetryAfter }

// Error implements error.
func (e *LimitedError) Error() string {
	return fmt.Sprintf("jwtauth: too many attempts; try again in %d s", int(e.RetryAfter.Seconds())+1)
}

const (
	iterations  = 600_000
	saltSize    = 16
	hashSize    = 32
	minPassword = 8
	maxPassword = 1024
	maxUser     = 64
	maxUsers    = 1000
	maxFile     = 1 << 20
	maxToken    = 4096
	// maxLimiters bounds the users and addresses whose attempts are counted
	// one by one.
	maxLimiters = 8192
	// perAddress and overall are how many times the attempts for one user from
	// one address are allowed from one address, and altogether.
	perAddress = 4
	overall    = 64
	issuer     = "mooring"
)

// User is one user as it is kept. It prints without the hash.
type User struct {
	Name       string `json:"name"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
	Hash       []byte `json:"hash"`
}

// String and GoString leave the hash out.
func (u User) String() string   { return "user " + u.Name }
func (u User) GoString() string { return u.String() }

// NewUser makes a user of a name and a password of 8 to 1024 bytes.
func NewUser(name, password string) (User, error) { return newUser(name, password, iterations) }

func newUser(name, password string, n int) (User, error) {
	switch {
	case name == "" || len(name) > maxUser || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return User{}, fmt.Errorf("jwtauth: user name %.80q is not 1 to %d printable characters", name, maxUser)
	case len(password) < minPassword || len(password) > maxPassword:
		return User{}, fmt.Errorf("jwtauth: the password has %d bytes; %d to %d are allowed", len(password), minPassword, maxPassword)
	}
	u := User{Name: name, Iterations: n, Salt: make([]byte, saltSize)}
	_, _ = rand.Read(u.Salt) // never fails (crypto/rand)
	hash, err := u.derive(password)
	if err != nil {
		return User{}, err
	}
	u.Hash = hash
	return u, nil
}

func (u User) derive(password string) ([]byte, error) {
	hash, err := pbkdf2.Key(sha256.New, password, u.Salt, u.Iterations, hashSize)
	if err != nil {
		return nil, fmt.Errorf("jwtauth: derive: %w", err)
	}
	return hash, nil
}

// Marshal encodes users for a file, which must be readable by its owner only.
func Marshal(users []User) ([]byte, error) { return json.MarshalIndent(users, "", "  ") }

// Unmarshal decodes what Marshal wrote.
func Unmarshal(data []byte) ([]User, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("jwtauth: users: more than %d bytes", maxFile)
	}
	var users []User
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&users); err != nil {
		return nil, fmt.Errorf("jwtauth: users: %w", err)
	}
	if len(users) > maxUsers {
		return nil, fmt.Errorf("jwtauth: users: more than %d", maxUsers)
	}
	for i, u := range users {
		if u.Name == "" || len(u.Name) > maxUser || len(u.Salt) != saltSize || len(u.Hash) != hashSize || u.Iterations < 1 || u.Iterations > 100*iterations {
			return nil, fmt.Errorf("jwtauth: users: entry %d is damaged", i+1)
		}
		if slices.ContainsFunc(users[:i], func(o User) bool { return o.Name == u.Name }) {
			return nil, fmt.Errorf("jwtauth: users: %q is there twice", u.Name)
		}
	}
	return users, nil
}

// Config is what an [Authenticator] is made of.
type Config struct {
	// Users may log in. With none, every login is refused.
	Users []User
	// Lifetime of a token. Zero means one hour.
	Lifetime time.Duration
	// Every and Burst limit the attempts for one user from one address: one
	// each Every once Burst are used up. Zero means 10 seconds and 5. From one
	// address four times as many are allowed over all users, and from
	// everywhere 64 times as many, which bounds the work and no more: who
	// fails from elsewhere must not lock a user out.
	Every time.Duration
	Burst int
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Authenticator checks passwords and tokens. It is safe for concurrent use.
type Authenticator struct {
	cfg    Config
	secret []byte

	mu       sync.Mutex
	users    map[string]User
	ghost    User // stands in for unknown users
	limiters map[string]*rate.Limiter
	all      *rate.Limiter
	// hashing is held while a password is checked, so that many attempts at
	// once cannot take the whole machine.
	hashing chan struct{}
	// derive is User.derive; tests count it.
	derive func(u User, password string) ([]byte, error)
}

// New checks cfg and returns an Authenticator with a new secret.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Lifetime < 0 || cfg.Every < 0 || cfg.Burst < 0 {
		return nil, errors.New("jwtauth: config: Lifetime, Every or Burst is negative")
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = time.Hour
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Burst == 0 {
		cfg.Burst = 5
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Authenticator{
		cfg: cfg, secret: make([]byte, 32), limiters: map[string]*rate.Limiter{},
		all: rate.NewLimiter(rate.Every(cfg.Every/overall), overall*cfg.Burst), hashing: make(chan struct{}, 1), derive: User.derive,
	}
	_, _ = rand.Read(a.secret) // never fails (crypto/rand)
	a.SetUsers(cfg.Users)
	return a, nil
}

// SetUsers replaces those who may log in. Tokens of a user who is gone, or whose
// password was changed, end at once; others stay valid.
func (a *Authenticator) SetUsers(list []User) {
	ghost := User{Iterations: iterations, Salt: make([]byte, saltSize), Hash: make([]byte, hashSize)}
	users := map[string]User{}
	for _, u := range list {
		users[u.Name] = u
		ghost.Iterations = u.Iterations
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users, a.ghost = users, ghost
}

// user returns a user, or one that stands in for who is not known.
func (a *Authenticator) user(name string) (u User, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u, known = a.users[name]; !known {
		u = a.ghost
	}
	return u, known
}

// tokenKey is what the tokens of a user are signed with. It changes with the
// password.
func (a *Authenticator) tokenKey(u User) []byte {
	h := hmac.New(sha256.New, a.secret)
	_, _ = h.Write(u.Salt) // each password has a salt of its own
	_, _ = h.Write(u.Hash)
	_, _ = h.Write([]byte(u.Name))
	return h.Sum(nil)
}

// allow counts an attempt. A limiter is made at the first attempt, for users who
// are there or not, so that it tells nothing about who is.
func (a *Authenticator) allow(from, user string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	from = source(from)
	// The narrowest comes first, so that one who is refused uses up nothing
	// that others need.
	if !a.limiter(from+" "+user, 1, now).AllowN(now, 1) || !a.limiter(from, perAddress, now).AllowN(now, 1) || !a.all.AllowN(now, 1) {
		return &LimitedError{RetryAfter: a.cfg.Every}
	}
	return nil
}

// limiter needs mu.
func (a *Authenticator) limiter(key string, times int, now time.Time) *rate.Limiter {
	if l := a.limiters[key]; l != nil {
		return l
	}
	if len(a.limiters) >= maxLimiters {
		// Those that are full again remember nothing that matters.
		for k, old := range a.limiters {
			if old.TokensAt(now) >= float64(old.Burst()) {
				delete(a.limiters, k)
			}
		}
		// To refuse everybody new would lock users out; any one goes.
		for k := range a.limiters {
			if len(a.limiters) < maxLimiters {
				break
			}
			delete(a.limiters, k)
		}
	}
	l := rate.NewLimiter(rate.Every(a.cfg.Every/time.Duration(times)), times*a.cfg.Burst)
	a.limiters[key] = l
	return l
}

// source is what counts as one address: of IPv6 the /64, in which one host may
// take any.
func source(from string) string {
	ip, err := netip.ParseAddr(from)
	if err != nil {
		return from[:min(len(from), maxUser)]
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// Login checks a password and returns a token and when it ends. from is the
// address that the attempt comes from, without a port. The error is [ErrRefused], a [*LimitedError], or ctx's.
func (a *Authenticator) Login(ctx context.Context, from, user, password string) (string, time.Time, error) {
	if len(user) > maxUser || len(password) > maxPassword {
		return "", time.Time{}, ErrRefused
	}
	if err := a.allow(from, user); err != nil {
		return "", time.Time{}, err
	}
	select {
	case a.hashing <- struct{}{}:
		defer func() { <-a.hashing }()
	case <-ctx.Done():
		return "", time.Time{}, ctx.Err()
	}
	u, known := a.user(user)
	hash, err := a.derive(u, password)
	if err != nil {
		return "", time.Time{}, err
	}
	if subtle.ConstantTimeCompare(hash, u.Hash) != 1 || !known {
		return "", time.Time{}, ErrRefused
	}
	return a.issue(u)
}

type claims struct {
	Name   string   `json:"name"`
	Roles  []string `json:"roles"`
	Scopes []string `json:"scopes"`
	jwt.RegisteredClaims
}

func (a *Authenticator) issue(u User) (string, time.Time, error) {
	now := a.cfg.Now()
	end := now.Add(a.cfg.Lifetime)
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		Name: u.Name, Roles: []string{"admin"}, Scopes: []string{"configure", "show-commands"},
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: u.Name, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(end),
		},
	})
	s, err := token.SignedString(a.tokenKey(u))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("jwtauth: token: %w", err)
	}
	return s, end, nil
}

// Authenticate returns the user of a token. The error is [ErrToken].
func (a *Authenticator) Authenticate(_ context.Context, token string) (string, error) {
	if len(token) > maxToken {
		return "", ErrToken
	}
	var c claims
	key := func(*jwt.Token) (any, error) {
		u, known := a.user(c.Subject)
		if !known {
			return nil, ErrToken
		}
		return a.tokenKey(u), nil
	}
	_, err := jwt.ParseWithClaims(token, &c, key,
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithTimeFunc(a.cfg.Now), jwt.WithStrictDecoding())
	if err != nil {
		return "", ErrToken
	}
	return c.Subject, nil
}
