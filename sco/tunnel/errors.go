package tunnel

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnauthorized is what an [Authorizer] returns, possibly wrapped, when
	// nobody may come in with the key. Other errors mean that it could not find
	// out: they refuse a new connection too, but leave existing ones alone.
	ErrUnauthorized = errors.New("tunnel: key is not authorized")

	// ErrHostKey is returned, wrapped, when a conductor shows a host key other
	// than the pinned ones.
	ErrHostKey = errors.New("tunnel: conductor shows a host key that is not pinned")

	// ErrReboot is returned by [Client.Run] when the router's [Applier] asked
	// for a reboot. The conductor has been told; it initializes again when the
	// router is back.
	ErrReboot = errors.New("tunnel: configuration applied, reboot needed")

	// ErrNotConnected is returned when the other side has no connection at the
	// moment.
	ErrNotConnected = errors.New("tunnel: not connected")

	// ErrNotAllowed is returned, wrapped, when the other side's rules, or those
	// of this side, do not allow a forward.
	ErrNotAllowed = errors.New("tunnel: forward is not allowed")

	errCrowded           = errors.New("tunnel: too many connections that have not authenticated")
	errKeepAlive         = errors.New("tunnel: other side does not answer")
	errReplaced          = errors.New("tunnel: replaced by a newer connection")
	errRevoked           = errors.New("tunnel: key is no longer authorized")
	errInitializeTimeout = errors.New("tunnel: router did not finish its initialization in time")
	errShutdown          = errors.New("tunnel: shutting down")
)

// quote quotes a text from outside, cut to a size that fits a log line.
func quote(s string) string {
	if len(s) > maxQuoted {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:maxQuoted], "?"))
	}
	return fmt.Sprintf("%q", s)
}
