package tftp

import (
	"errors"
	"fmt"
)

// What a caller may branch on. A file that the server doesn't have is a
// [*ServerError] that matches [ErrNotFound].
var (
	// ErrNotFound: the server says that there is no such file.
	ErrNotFound = errors.New("tftp: file not found")
	// ErrTimeout: the server didn't answer, or stopped answering.
	ErrTimeout = errors.New("tftp: the server does not answer")
	// ErrTooLarge: the file is larger than Config.MaxSize.
	ErrTooLarge = errors.New("tftp: file is too large")
	// ErrSize: the server sent another number of octets than it announced.
	ErrSize = errors.New("tftp: size differs from what the server announced")
	// ErrProtocol: the server sent something that the RFCs forbid.
	ErrProtocol = errors.New("tftp: protocol violation")
)

// Codes of RFC 1350 and RFC 2347 that we send or look at.
const (
	codeNotFound      = 1
	codeDiskFull      = 3
	codeIllegal       = 4
	codeUnknownTID    = 5
	codeOptionRefused = 8
)

// ServerError is an ERROR packet from the server.
type ServerError struct {
	// Code is the error code of RFC 1350 section 5, or 8 (RFC 2347).
	Code uint16
	// Message is the server's text, cut to 200 octets. It is not to be trusted
	// and may hold control characters: print it with %q.
	Message string
}

// Error names the code and quotes the message.
func (e *ServerError) Error() string {
	return fmt.Sprintf("tftp: the server answered error %d: %q", e.Code, e.Message)
}

// Is makes code 1 match [ErrNotFound]. Many servers answer code 2 (access
// violation) or 0 with a text of their own for a missing file; these don't match.
func (e *ServerError) Is(target error) bool {
	return target == ErrNotFound && e.Code == codeNotFound
}

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
