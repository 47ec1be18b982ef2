package jwtauth

// NewTestUser makes a user whose password costs little to check.
func NewTestUser(name, password string) (User, error) { return newUser(name, password, 10) }

// CountDerive calls f with the iterations of every derivation.
func (a *Authenticator) CountDerive(f func(iterations int)) {
	a.derive = func(u User, password string) ([]byte, error) {
		f(u.Iterations)
		return u.derive(password)
	}
}
