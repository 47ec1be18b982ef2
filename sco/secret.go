package sco

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// redacted stands for a secret wherever a value is printed.
const redacted = "(redacted)"

// Secret is a router's pre-shared secret: exactly 48 characters of [A-Za-z0-9].
// The zero value stands for "none yet". A Secret never prints itself: String,
// Format, LogValue and MarshalJSON give a placeholder, and only [Secret.Reveal]
// and [EncodeRouter] give the characters.
type Secret struct {
	value string
}

// ParseSecret checks that s has the form of a pre-shared secret. The error does
// not repeat s.
func ParseSecret(s string) (Secret, error) {
	if len(s) != secretLen {
		return Secret{}, fmt.Errorf("sco: a pre-shared secret has exactly %d characters, this one has %d", secretLen, len(s))
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) {
			return Secret{}, fmt.Errorf("sco: a pre-shared secret is made of A-Z, a-z and 0-9, the character at position %d is not", i+1)
		}
	}
	return Secret{value: s}, nil
}

// NewSecret draws a secret from the system's cryptographic generator.
func NewSecret() Secret {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, secretLen)
	var buf [64]byte
	for len(out) < secretLen {
		// crypto/rand.Read never fails: it ends the process instead.
		_, _ = rand.Read(buf[:])
		for _, b := range buf {
			// Values above the largest multiple of 62 would favour the
			// first characters.
			if int(b) < 256-256%len(alphabet) && len(out) < secretLen {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return Secret{value: string(out)}
}

func isAlphanumeric(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == "" }

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.value), []byte(o.value)) == 1
}

// Reveal returns the characters. The caller keeps them out of logs.
func (s Secret) Reveal() string { return s.value }

// String returns a placeholder.
func (s Secret) String() string { return redacted }

// Format writes a placeholder, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes a placeholder, so that a [Router] can be shown.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
