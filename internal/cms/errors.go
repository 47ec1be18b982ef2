package cms

import (
	"errors"
	"fmt"
)

var (
	// ErrEmpty says that the input has no bytes at all. An encryption command that fails often leaves such a file.
	ErrEmpty = errors.New("cms: the file is empty")
	// ErrPlain says that the input is no CMS message in any of the forms that Detect knows.
	ErrPlain = errors.New("cms: not an encrypted message")
	// ErrTooLarge says that the input is larger than the caller allows.
	ErrTooLarge = errors.New("cms: message is larger than allowed")
	// ErrMalformed says that the input breaks the rules of its encoding.
	ErrMalformed = errors.New("cms: malformed message")
	// ErrUnsupported says that the input is well formed, but uses something that this package does not do.
	ErrUnsupported = errors.New("cms: unsupported message")
	// ErrNotRecipient says that no recipient of the message can be meant for the key.
	ErrNotRecipient = errors.New("cms: the message is not encrypted to this key")
	// ErrDecrypt is the one answer for everything that can go wrong once the private key was used. It never says
	// which step failed, because that would help somebody who sends crafted messages to the holder of the key.
	ErrDecrypt = errors.New("cms: decryption failed: wrong key or damaged message")
	// ErrUnauthenticated says that the message has no authentication tag and the caller demands one.
	ErrUnauthenticated = errors.New("cms: the message is encrypted without authentication")
	// ErrKeyUnavailable says that the private key could not be used at all, for example because its TPM does not answer.
	ErrKeyUnavailable = errors.New("cms: the private key cannot be used")
	// ErrSignature says that no signature of a signed message is valid.
	ErrSignature = errors.New("cms: invalid signature")
	// ErrUntrusted says that a signature is valid, but its signer is not trusted.
	ErrUntrusted = errors.New("cms: untrusted signer")
)

// quoteCap bounds how much of an outside value is repeated in an error.
const quoteCap = 64

func quote(s string) string {
	if len(s) > quoteCap {
		s = s[:quoteCap] + "..."
	}
	return fmt.Sprintf("%q", s)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
