package jwtauth_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki/jwtauth"
)

// home is where attempts come from.
const home = "192.0.2.1"

type clock struct{ now time.Time }

func authenticator(t *testing.T, c *clock) *jwtauth.Authenticator {
	t.Helper()
	u, err := jwtauth.NewTestUser("admin", "TheAdminPassword1234")
	require.NoError(t, err)
	a, err := jwtauth.New(jwtauth.Config{Users: []jwtauth.User{u}, Now: func() time.Time { return c.now }})
	require.NoError(t, err)
	return a
}

func TestLoginAndExpiry(t *testing.T) {
	t.Parallel()
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a := authenticator(t, c)
	token, end, err := a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
	require.Equal(t, c.now.Add(time.Hour), end)
	user, err := a.Authenticate(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, "admin", user)
	c.now = end.Add(-time.Second)
	_, err = a.Authenticate(t.Context(), token)
	require.NoError(t, err)
	c.now = end
	_, err = a.Authenticate(t.Context(), token)
	require.ErrorIs(t, err, jwtauth.ErrToken)
	// Another process, or this one after a restart, has another secret.
	_, err = authenticator(t, c).Authenticate(t.Context(), token)
	require.ErrorIs(t, err, jwtauth.ErrToken)
}

// TestUnknownUserLooksTheSame compares answers; the work is the same because the
// same derivation runs, which TestUnknownUserWorks measures.
func TestUnknownUserLooksTheSame(t *testing.T) {
	t.Parallel()
	c := &clock{time.Now()}
	a := authenticator(t, c)
	for n := range 8 {
		_, _, wrong := a.Login(t.Context(), home, "admin", "wrong password")
		_, _, unknown := a.Login(t.Context(), home, "nobody", "wrong password")
		require.Equal(t, wrong, unknown, "attempt %d", n)
		if n < 5 {
			require.ErrorIs(t, wrong, jwtauth.ErrRefused)
			continue
		}
		var limited *jwtauth.LimitedError
		require.ErrorAs(t, wrong, &limited)
	}
	// The right password does not help before the time is over.
	_, _, err := a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.Error(t, err)
	c.now = c.now.Add(time.Minute)
	_, _, err = a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
}

// TestUnknownUserWorks shows that an unknown user costs the work of a known one.
func TestUnknownUserWorks(t *testing.T) {
	t.Parallel()
	a := authenticator(t, &clock{time.Now()})
	var work []int
	a.CountDerive(func(n int) { work = append(work, n) })
	for _, user := range []string{"admin", "nobody", ""} {
		_, _, err := a.Login(t.Context(), home, user, "wrong password")
		require.ErrorIs(t, err, jwtauth.ErrRefused)
	}
	require.Equal(t, []int{10, 10, 10}, work)
}

// TestPasswordIsCostly checks a password as it is kept in files.
func TestPasswordIsCostly(t *testing.T) {
	t.Parallel()
	u, err := jwtauth.NewUser("admin", "TheAdminPassword1234")
	require.NoError(t, err)
	require.GreaterOrEqual(t, u.Iterations, 600_000)
	a, err := jwtauth.New(jwtauth.Config{Users: []jwtauth.User{u}})
	require.NoError(t, err)
	_, _, err = a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
}

func TestManyUsersAreLimitedTogether(t *testing.T) {
	t.Parallel()
	a := authenticator(t, &clock{time.Now()})
	refused := 0
	for n := range 100 {
		_, _, err := a.Login(t.Context(), home, fmt.Sprint("user", n), "wrong password")
		if errors.Is(err, jwtauth.ErrRefused) {
			refused++
		}
	}
	require.Equal(t, 20, refused)
}

// TestNobodyIsLockedOut fails from many addresses, with many names.
func TestNobodyIsLockedOut(t *testing.T) {
	t.Parallel()
	c := &clock{time.Now()}
	a := authenticator(t, c)
	for n := range 100 {
		_, _, err := a.Login(t.Context(), "198.51.100.7", "admin", "wrong password")
		require.Error(t, err)
		_, _, err = a.Login(t.Context(), "198.51.100.8", fmt.Sprint("user", n), "wrong password")
		require.Error(t, err)
		_, _, err = a.Login(t.Context(), fmt.Sprintf("2001:db8::%x", n+1), "admin", "wrong password")
		if n >= 5 {
			var limited *jwtauth.LimitedError
			require.ErrorAs(t, err, &limited, "one network is one address")
		}
	}
	_, _, err := a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
	// More of them than can be counted one by one.
	for n := range 10_000 {
		_, _, _ = a.Login(t.Context(), fmt.Sprint("10.0.", n/250, ".", n%250), "admin", "wrong password")
		c.now = c.now.Add(200 * time.Millisecond)
	}
	_, _, err = a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
}

func TestUsersChange(t *testing.T) {
	t.Parallel()
	a := authenticator(t, &clock{time.Now()})
	admin, err := jwtauth.NewTestUser("admin", "TheAdminPassword1234")
	require.NoError(t, err)
	other, err := jwtauth.NewTestUser("other", "TheOtherPassword1234")
	require.NoError(t, err)
	a.SetUsers([]jwtauth.User{admin, other})
	first, _, err := a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
	second, _, err := a.Login(t.Context(), home, "other", "TheOtherPassword1234")
	require.NoError(t, err)
	changed, err := jwtauth.NewTestUser("admin", "AnotherPassword1234")
	require.NoError(t, err)
	a.SetUsers([]jwtauth.User{changed, other})
	_, err = a.Authenticate(t.Context(), first)
	require.ErrorIs(t, err, jwtauth.ErrToken, "it was given for the old password")
	_, err = a.Authenticate(t.Context(), second)
	require.NoError(t, err)
	_, _, err = a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.ErrorIs(t, err, jwtauth.ErrRefused)
	_, _, err = a.Login(t.Context(), home, "admin", "AnotherPassword1234")
	require.NoError(t, err)
	a.SetUsers([]jwtauth.User{changed})
	_, err = a.Authenticate(t.Context(), second)
	require.ErrorIs(t, err, jwtauth.ErrToken)
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	c := &clock{time.Now()}
	a := authenticator(t, c)
	token, _, err := a.Login(t.Context(), home, "admin", "TheAdminPassword1234")
	require.NoError(t, err)
	parts := strings.Split(token, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	other, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "admin", "iss": "mooring", "exp": c.now.Add(time.Hour).Unix()}).SignedString([]byte("guess"))
	require.NoError(t, err)
	for name, forged := range map[string]string{
		"empty": "", "none": none + "." + parts[1] + ".", "none with signature": none + "." + parts[1] + "." + parts[2],
		"no signature": parts[0] + "." + parts[1] + ".", "other key": other, "changed": parts[0] + "." + parts[1] + "x." + parts[2],
		"long": strings.Repeat("a", 10000), "words": "Bearer " + token,
	} {
		_, err := a.Authenticate(t.Context(), forged)
		require.ErrorIs(t, err, jwtauth.ErrToken, name)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{{"", "TheAdminPassword1234"}, {"a b", "TheAdminPassword1234"}, {"a", "short"}, {"a", strings.Repeat("x", 1025)}} {
		_, err := jwtauth.NewUser(c[0], c[1])
		require.Error(t, err)
		require.NotContains(t, err.Error(), c[1]+"x")
	}
	u, err := jwtauth.NewTestUser("admin", "TheAdminPassword1234")
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", u, u, u, u), fmt.Sprint(u.Hash[0], " ", u.Hash[1]))
	data, err := jwtauth.Marshal([]jwtauth.User{u})
	require.NoError(t, err)
	users, err := jwtauth.Unmarshal(data)
	require.NoError(t, err)
	require.Equal(t, []jwtauth.User{u}, users)
	for _, bad := range []string{"", "{}", `[{"name":"a"}]`, `[{"x":1}]`, string(data[:len(data)-5])} {
		_, err := jwtauth.Unmarshal([]byte(bad))
		require.Error(t, err, bad)
	}
	data, err = jwtauth.Marshal([]jwtauth.User{u, u})
	require.NoError(t, err)
	_, err = jwtauth.Unmarshal(data)
	require.ErrorContains(t, err, "twice")
}

func FuzzAuthenticate(f *testing.F) {
	a, err := jwtauth.New(jwtauth.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := a.Authenticate(t.Context(), token); err == nil {
			t.Fatalf("accepted %q", token)
		}
	})
}
