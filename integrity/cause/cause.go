package cause

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Code is the stable name of a cause.
type Code string

// The causes. The comment of each is not its operator text: see [Code.Text].
const (
	// NoTPM means that the TPM cannot be reached at all.
	NoTPM Code = "no-tpm"
	// Timeout means that the TPM did not answer in time.
	Timeout Code = "timeout"
	// Lockout means that the TPM is in dictionary-attack lockout.
	Lockout Code = "tpm-lockout"
	// TPMFailed is any other refusal of the TPM.
	TPMFailed Code = "tpm-failed"
	// TPMCleared means the same TPM, with its owner's seed gone.
	TPMCleared Code = "tpm-cleared"
	// ForeignTPM means a TPM other than the one that wrapped the key.
	ForeignTPM Code = "tpm-foreign"
	// PCRChanged means that the measured boot state is not an allowed one.
	PCRChanged Code = "pcr-changed"
	// Capped means that the key was already given out in this boot.
	Capped Code = "capped"
	// PolicyMissing means that there is no signed policy to satisfy.
	PolicyMissing Code = "policy-missing"
	// PolicyInvalid means that the policy is not signed by the pinned vendor
	// key, or is damaged.
	PolicyInvalid Code = "policy-invalid"
	// PolicyRolledBack means that the NV counter has revoked the policy.
	PolicyRolledBack Code = "policy-rolled-back"
	// NotEnabled means that nothing says that this system was ever set up.
	NotEnabled Code = "not-enabled"
	// StateMissing means that the TPM knows this system as set up, and the
	// record on disk is gone.
	StateMissing Code = "state-missing"
	// RecordCorrupt means that the record fails its checksum, or that the TPM
	// refuses the wrapped key as damaged.
	RecordCorrupt Code = "record-corrupt"
	// ManifestForged means that the manifest is not the one that the TPM vouches
	// for.
	ManifestForged Code = "manifest-forged"
	// WrongKey means that the unwrapped key is not the key of the manifest.
	WrongKey Code = "wrong-key"
	// Unsupported means that the file system or the kernel cannot encrypt.
	Unsupported Code = "fs-unsupported"
	// DirectoryMissing means that a protected directory is gone.
	DirectoryMissing Code = "directory-missing"
	// DirectoryPlain means that a plain directory has a protected name.
	DirectoryPlain Code = "directory-plain"
	// DirectoryWrongKey means a directory that is encrypted with another key.
	DirectoryWrongKey Code = "directory-wrong-key"
	// DirectoryWrongPolicy means other encryption modes or flags.
	DirectoryWrongPolicy Code = "directory-wrong-policy"
	// DirectoryUnreadable means that a directory stays locked or cannot be read
	// although its key was added.
	DirectoryUnreadable Code = "directory-unreadable"
	// Kernel is any other refusal of the kernel.
	Kernel Code = "kernel-failed"
	// ConfigInvalid means that the configuration, or a file that it names,
	// cannot be read.
	ConfigInvalid Code = "config-invalid"
	// ConfigChanged means that the configuration asks for something else than
	// was set up.
	ConfigChanged Code = "config-changed"
	// Unknown is an error without a code.
	Unknown Code = "unknown"
)

type words struct{ text, remedy string }

const reinstall = "no setting helps"

var table = map[Code]words{
	NoTPM:                {"the TPM cannot be reached", "check that the TPM is present and switched on in the firmware settings, then restart"},
	Timeout:              {"the TPM does not answer in time", "switch the system off and on again"},
	Lockout:              {"the TPM is in dictionary attack lockout: something guessed at its secrets", "leave the system switched on until the lockout time has passed; it retries by itself"},
	TPMFailed:            {"the TPM refused to work", "switch the system off and on again"},
	TPMCleared:           {"the TPM was cleared, so the key of the configuration is gone for good", reinstall},
	ForeignTPM:           {"this is not the TPM that protects the configuration: the board or the disk was exchanged", "put disk and board back together as they were, then restart"},
	PCRChanged:           {"the measured boot state is not an approved one: firmware, boot loader or system were changed", "restart into the approved firmware and system, or install the signed policy of this release"},
	Capped:               {"the key was already given out since the last restart and is withheld until the next", "restart the system"},
	PolicyMissing:        {"the signed boot policy is missing", "install the signed policy of this release, then restart"},
	PolicyInvalid:        {"the boot policy is damaged or not signed by the vendor", "install the signed policy of this release, then restart"},
	PolicyRolledBack:     {"the boot policy was revoked: an older release than allowed was put back", "install a release that is not revoked"},
	NotEnabled:           {"configuration integrity was never set up on this system", "enable it, if this system is new"},
	StateMissing:         {"the TPM knows this system as protected, but the record of the wrapped key is gone", reinstall},
	RecordCorrupt:        {"the record of the wrapped key is damaged or was changed", reinstall},
	ManifestForged:       {"the list of protected directories is not the one that the TPM vouches for", reinstall},
	WrongKey:             {"the unwrapped key is not the key of the protected directories", reinstall},
	Unsupported:          {"the file system or the kernel does not support encryption", "start the kernel and mount the file system that this system was installed with, then restart"},
	DirectoryMissing:     {"a protected directory is missing", "check that its file system is mounted, then restart"},
	DirectoryPlain:       {"a protected directory was replaced by one that is not encrypted", reinstall},
	DirectoryWrongKey:    {"a protected directory was replaced by one that is encrypted with another key", reinstall},
	DirectoryWrongPolicy: {"a protected directory was replaced by one with other encryption settings", reinstall},
	DirectoryUnreadable:  {"a protected directory cannot be read although its key is known", "check the disk, then restart"},
	Kernel:               {"the kernel refused to work", "restart the system"},
	ConfigInvalid:        {"the configuration of the integrity handler is missing or damaged", "put the configuration and the files that it names back as they were; it retries by itself"},
	ConfigChanged:        {"the configuration asks for something else than this system was set up with", "put the configuration back as it was, then restart"},
	Unknown:              {"the protected directories could not be opened", "read the log of the integrity handler"},
}

// Codes returns every code, sorted.
func Codes() []Code {
	all := make([]Code, 0, len(table))
	for c := range table {
		all = append(all, c)
	}
	slices.Sort(all)
	return all
}

func (c Code) words() words {
	if w, ok := table[c]; ok {
		return w
	}
	return table[Unknown]
}

// Text says in one line, without a full stop, what happened.
func (c Code) Text() string { return c.words().text }

// Remedy says in one line, without a full stop, what may help before the system
// is given up.
func (c Code) Remedy() string { return c.words().remedy }

// Final reports whether only a clean install or an RMA is left.
func (c Code) Final() bool { return c.words().remedy == reinstall }

// Error is a failure with its cause.
type Error struct {
	// Code is never empty.
	Code Code
	// Path is the directory or file that it is about, if there is one.
	Path string
	// PCRs are the platform configuration registers that changed, for
	// [PCRChanged], where that is known.
	PCRs []uint
	// Err is what was met; it may be nil.
	Err error
}

// New returns an *Error.
func New(code Code, err error) *Error { return &Error{Code: code, Err: err} }

// At returns an *Error about a path.
func At(code Code, path string, err error) *Error {
	return &Error{Code: code, Path: path, Err: err}
}

const maxPath = 256

// Error returns the code, its text, and what is known beside it.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Code, e.Code.Text())
	if e.Path != "" {
		fmt.Fprintf(&b, ": %.*q", maxPath, e.Path)
	}
	if len(e.PCRs) > 0 {
		names := make([]string, len(e.PCRs))
		for i, p := range e.PCRs {
			names[i] = strconv.FormatUint(uint64(p), 10)
		}
		fmt.Fprintf(&b, ": PCR %s", strings.Join(names, ", "))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Of returns the code of the first *Error in err's tree, [Unknown] when there is
// none, and "" for nil.
func Of(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Unknown
}
