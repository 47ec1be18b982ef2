package sco

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrRefused: the conductor refused the router. The conductor does not
	// say why; its log, its audit record and the router's state do.
	ErrRefused = errors.New("sco: the conductor refused; its log and its state of this router tell why")
	// ErrConductor: the other end is not the conductor of the token.
	ErrConductor = errors.New("sco: the other end is not the conductor that the token names")
	// ErrNotOnboarded: there is no complete enrollment in the directory.
	ErrNotOnboarded = errors.New("sco: not onboarded")
	// ErrUnknownKey: the SSH key is not pinned for any router.
	ErrUnknownKey = errors.New("sco: the SSH key is not pinned for any router")
)

// TokenError says why no token was issued: every reason at once.
type TokenError struct {
	Router  string
	Reasons []string
}

// Error joins the reasons in one line.
func (e *TokenError) Error() string {
	return fmt.Sprintf("sco: no token for router %.80q: %s", e.Router, strings.Join(e.Reasons, "; "))
}

// refusal is why a conductor turned a router away. It stays inside.
type refusal struct {
	reason string
	// class is the same for reasons that differ only in details.
	class string
	// proven: the client has shown that it knows the secret.
	proven bool
}

func (r *refusal) Error() string { return r.reason }

func refuse(format string, args ...any) *refusal {
	reason := fmt.Sprintf(format, args...)
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	return &refusal{reason: reason, class: format}
}
