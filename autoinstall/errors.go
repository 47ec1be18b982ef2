package autoinstall

import (
	"errors"
	"fmt"
)

// What a caller may branch on. Every error of an attempt matches either
// [ErrNothingYet] or [ErrRefused], unless it comes from the device itself (its
// disk, its TPM, its configuration) or from ctx.
var (
	// ErrNothingYet: no server answered, or none has a file for this device.
	ErrNothingYet = errors.New("autoinstall: no configuration to be had yet")
	// ErrRefused: somebody offered something that is not acceptable.
	ErrRefused = errors.New("autoinstall: refused")

	// These are wrapped together with ErrRefused.

	// ErrEmpty: the file has no bytes, as an encryption that failed leaves it.
	ErrEmpty = errors.New("the file is empty")
	// ErrPlain: the file is not encrypted, not with integrity, or not signed,
	// and has to be.
	ErrPlain = errors.New("the configuration is not protected as this device demands")
	// ErrDecrypt: no key of this device opens the message, or it is damaged.
	ErrDecrypt = errors.New("the configuration can't be decrypted")
	// ErrUntrusted: the signature is not valid or not by a trusted owner.
	ErrUntrusted = errors.New("the configuration is not signed by an owner that this device trusts")
	// ErrOtherDevice: the configuration names another device.
	ErrOtherDevice = errors.New("the configuration is for another device")
	// ErrRollback: the counter is not above the one that was installed.
	ErrRollback = errors.New("the configuration is older than the one installed")
	// ErrInsane: the Sane hook said no.
	ErrInsane = errors.New("the configuration does not pass the sanity check")
	// ErrNoWhole: the file is a part, and there is nothing to add it to.
	ErrNoWhole = errors.New("it is a part, and no whole configuration is in force that it could be added to")
	// ErrTooLarge: the file is larger than Config.MaxSize.
	ErrTooLarge = errors.New("the file is too large")

	// ErrNotFound is returned by a Fetcher when the server has no such file.
	ErrNotFound = errors.New("no such file")
	// ErrState: the device's own record is damaged. Nothing is installed until
	// somebody looks at it, because the counter would be lost.
	ErrState = errors.New("autoinstall: damaged state")
)

// RefusedError says what was refused, from where, and why. It matches
// [ErrRefused] and the errors named beside it.
type RefusedError struct {
	// Source is where it came from: a URL, or a file's name.
	Source string
	// Err is why. For an encrypted message without integrity it doesn't tell
	// what failed once the key was used, and matches [ErrDecrypt] and
	// [ErrInsane] alike.
	Err error

	vague bool
}

// Error quotes the source.
func (e *RefusedError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("%v: %v", ErrRefused, e.Err)
	}
	return fmt.Sprintf("%v: %.200q: %v", ErrRefused, e.Source, e.Err)
}

// Unwrap returns [ErrRefused] and the reason.
func (e *RefusedError) Unwrap() []error { return []error{ErrRefused, e.Err} }

func nothingYet(err error) error { return fmt.Errorf("%w: %w", ErrNothingYet, err) }
