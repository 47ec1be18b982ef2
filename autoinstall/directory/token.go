package directory

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const tokenPrefix = "mdt1"

// Secret is a token as manufacturing has it: the secret, and the fingerprint of
// the CA certificate of the directory, so that a publisher needs nothing else to
// know the directory. It doesn't print itself.
type Secret struct {
	secret []byte
	pin    [sha256.Size]byte
	pinned bool
}

// NewSecret makes a token. ca is the certificate of the CA that the directory's
// HTTPS certificate is from.
func NewSecret(ca *x509.Certificate) (Secret, error) {
	s := Secret{secret: make([]byte, 32), pin: sha256.Sum256(ca.Raw), pinned: true}
	if _, err := rand.Read(s.secret); err != nil {
		return Secret{}, fmt.Errorf("directory: random number: %w", err)
	}
	return s, nil
}

// ParseToken reads what [Secret.Reveal] wrote. The error tells nothing of the
// token.
func ParseToken(text string) (Secret, error) {
	parts := strings.Split(text, ".")
	if len(text) > 200 || len(parts) < 2 || len(parts) > 3 || parts[0] != tokenPrefix {
		return Secret{}, errors.New("directory: this is not a token of manufacturing")
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil || len(secret) != 32 {
		return Secret{}, errors.New("directory: this is not a token of manufacturing")
	}
	s := Secret{secret: secret}
	if len(parts) == 3 {
		pin, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
		if err != nil || len(pin) != sha256.Size {
			return Secret{}, errors.New("directory: the token's fingerprint is damaged")
		}
		s.pin, s.pinned = [sha256.Size]byte(pin), true
	}
	return s, nil
}

// Reveal returns the token as text: "mdt1." and two or three parts in base64url.
func (s Secret) Reveal() string {
	text := s.bare()
	if s.pinned {
		text += "." + base64.RawURLEncoding.EncodeToString(s.pin[:])
	}
	return text
}

func (s Secret) bare() string {
	return tokenPrefix + "." + base64.RawURLEncoding.EncodeToString(s.secret)
}

// Hash returns what the directory keeps.
func (s Secret) Hash() [sha256.Size]byte { return sha256.Sum256(s.secret) }

// String hides the token.
func (s Secret) String() string { return "(token)" }

// GoString hides the token.
func (s Secret) GoString() string { return "(token)" }

// LogValue hides the token.
func (s Secret) LogValue() slog.Value { return slog.StringValue("(token)") }

// MarshalText hides the token.
func (s Secret) MarshalText() ([]byte, error) { return []byte("(token)"), nil }

// matches says whether cert is the CA of the token.
func (s Secret) matches(cert *x509.Certificate) bool {
	sum := sha256.Sum256(cert.Raw)
	return subtle.ConstantTimeCompare(sum[:], s.pin[:]) == 1
}
