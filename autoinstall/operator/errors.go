package operator

import (
	"errors"
	"fmt"
)

var (
	// ErrSerial says that a serial number cannot be one. See Config for the form.
	ErrSerial = errors.New("operator: invalid serial number")
	// ErrNotPublished says that the directory has no certificate for a serial number.
	ErrNotPublished = errors.New("operator: the directory has no certificate for this serial number")
	// ErrUnavailable says that the directory could not be asked, or did not authenticate itself.
	ErrUnavailable = errors.New("operator: the directory could not be asked")
	// ErrAnswer says that the directory's answer is not a certificate that can be encrypted to.
	ErrAnswer = errors.New("operator: the directory's answer is no usable certificate")
	// ErrNotKept says that no certificate is kept for a serial number.
	ErrNotKept = errors.New("operator: no certificate is kept for this serial number")
	// ErrKept says that a file that is kept is damaged.
	ErrKept = errors.New("operator: the kept certificate cannot be read")
)

// ChangedError says that the directory names another key for a device than the one that is kept. Nothing was changed.
type ChangedError struct {
	Serial string
	// Kept and Offered are the fingerprints of the two keys.
	Kept, Offered string
}

// Error implements error.
func (e *ChangedError) Error() string {
	return fmt.Sprintf("operator: the directory now has another key for %q: kept %s, offered %s", e.Serial, e.Kept, e.Offered)
}

// quoteCap bounds how much of an outside value is repeated in an error.
const quoteCap = 80

func quote(s string) string {
	if len(s) > quoteCap {
		s = s[:quoteCap] + "..."
	}
	return fmt.Sprintf("%q", s)
}
