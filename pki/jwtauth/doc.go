// Package jwtauth keeps users with passwords and gives them bearer tokens.
//
// Passwords are kept as PBKDF2-HMAC-SHA256 with 600,000 iterations and a salt of
// their own. Tokens are JWTs (RFC 7519) signed with HMAC-SHA256 by a key that is
// made when the [Authenticator] is and lives in memory only, so a restart ends
// every session. An unknown user costs as much time as a wrong password and gets
// the same answer. Attempts are limited per user and address, so that
// nobody is locked out by what others do.
package jwtauth
