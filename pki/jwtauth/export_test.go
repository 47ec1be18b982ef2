package jwtauth

// NewTestUser makes a user whose password costs little to check.
func NewTestUser(name, password string) (User, error) { return newUser(name, password, 10) }
