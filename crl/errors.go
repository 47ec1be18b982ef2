package crl

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrUnknown says that nothing in force speaks for a certificate.
	ErrUnknown = errors.New("crl: revocation status is unknown")
	// ErrStale says that what speaks for a certificate is out of date.
	ErrStale = errors.New("crl: revocation status is stale")
	// ErrRollback says that a list is older than one that was in force before.
	ErrRollback = errors.New("crl: list goes back behind one that was seen before")
	// ErrBusy says that another process held the directory for too long.
	ErrBusy = errors.New("crl: directory is in use by another process")
	// errReadOnly says that the manager may only read.
	errReadOnly = errors.New("crl: the manager only reads its directory")
	// ErrDamaged says that a file of the directory is damaged.
	ErrDamaged = errors.New("crl: file is damaged")
)

// RevokedError says that a certificate is revoked or on hold.
type RevokedError struct {
	// Subject is the name of the certificate.
	Subject string
	// Reason is the reason of RFC 5280 section 5.3.1, such as "keyCompromise".
	Reason string
	// At is when it was revoked.
	At time.Time
	// Source is where the list came from.
	Source string
}

// Error implements error.
func (e *RevokedError) Error() string {
	return fmt.Sprintf("crl: certificate of %.200q is revoked since %s (%s)", e.Subject, e.At.UTC().Format(time.RFC3339), e.Reason)
}

// statusError is an answer that is neither good nor revoked, as an error.
type statusError struct {
	kind error // ErrUnknown or ErrStale
	why  string
}

func (e *statusError) Error() string { return e.kind.Error() + ": " + e.why }
func (e *statusError) Unwrap() error { return e.kind }
