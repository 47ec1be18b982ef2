// Package serial says what an identifier of a device may look like.
//
// RFC 8886 uses the serial number of the device and allows others, such as a
// UUID (section 2). The identifier becomes a file name, a part of a URL, and the
// common name of a certificate, so it has to be harmless in all of them.
package serial

import (
	"errors"
	"fmt"
)

// MaxLen is the longest identifier, which is also the longest common name of a
// certificate (RFC 5280 appendix A).
const MaxLen = 64

// ErrSyntax is wrapped by every refusal.
var ErrSyntax = errors.New("not a serial number")

// Check refuses everything but 1 to 64 letters, digits, '-', '_', '.', ':' that
// begin and end with a letter or digit and hold no two dots in a row. Letters of
// both cases are different.
func Check(s string) error {
	if s == "" {
		return fmt.Errorf("%w: it is empty", ErrSyntax)
	}
	if len(s) > MaxLen {
		return fmt.Errorf("%w: %.64q is longer than %d characters", ErrSyntax, s, MaxLen)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		case i == 0 || i == len(s)-1:
			return fmt.Errorf("%w: %q begins or ends with %q", ErrSyntax, s, c)
		case c == '.' && s[i-1] == '.':
			return fmt.Errorf("%w: %q holds two dots in a row", ErrSyntax, s)
		case c != '-' && c != '_' && c != '.' && c != ':':
			return fmt.Errorf("%w: %q holds %q", ErrSyntax, s, c)
		}
	}
	return nil
}
