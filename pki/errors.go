package pki

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrExists means that the name has a key or a bundle already and the
	// caller did not say replace.
	ErrExists = errors.New("pki: the name is taken")
	// ErrNotFound means that there is no key, certificate or bundle of this
	// name.
	ErrNotFound = errors.New("pki: no such name")
)

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	// Field is the name of the field as in JSON, such as "rsa_key_size".
	Field string `json:"field"`
	// Text says what is wrong with it.
	Text string `json:"message"`
}

// FieldErrors is the error for a request with bad fields. It names all of them.
type FieldErrors []FieldError

// Error names every field, in one line.
func (e FieldErrors) Error() string {
	parts := make([]string, len(e))
	for i, f := range e {
		parts[i] = f.Field + ": " + f.Text
	}
	return "pki: " + strings.Join(parts, "; ")
}

func (e *FieldErrors) add(field, format string, args ...any) {
	*e = append(*e, FieldError{Field: field, Text: fmt.Sprintf(format, args...)})
}

func (e FieldErrors) err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// name checks a name, which becomes the name of files.
func (e *FieldErrors) name(name string) {
	switch {
	case name == "":
		e.add("name", "it is missing")
		return
	case len(name) > maxName:
		e.add("name", "it has %d characters; %d are allowed", len(name), maxName)
		return
	case name[0] == '.' || name[0] == '-':
		e.add("name", "%q begins with %q", name, name[:1])
		return
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			e.add("name", "%q has a character that is not a letter, a digit, \".\", \"_\" or \"-\"", name)
			return
		}
	}
}

func checkName(name string) error {
	var e FieldErrors
	e.name(name)
	return e.err()
}
