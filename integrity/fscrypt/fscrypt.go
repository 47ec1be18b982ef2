package fscrypt

import (
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"syscall"

	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

// The requests that a [Kernel] gets. The numbers are those of amd64, arm64 and
// arm; [System] translates where a machine has others.
const (
	RequestSetPolicy = 0x800c6613
	RequestGetPolicy = 0xc0096616
	RequestAddKey    = 0xc0506617
	RequestRemoveKey = 0xc0406619
	RequestKeyStatus = 0xc080661a
)

// Kernel is what this package asks of an operating system. Implementations are
// safe for concurrent use, do not keep the slices, and follow no symbolic link
// in the last element of a path. Errors wrap a [syscall.Errno].
type Kernel interface {
	// Ioctl opens the directory and performs one of the requests, with the
	// kernel's own layout in arg, which it changes in place. A policy that was
	// set is durable when it returns.
	Ioctl(dir string, request uint, arg []byte) error
	// Device returns the number of the file system that holds path.
	Device(path string) (uint64, error)
	// Probe proves that files can be made and read in dir, and leaves nothing
	// behind. It returns [ErrLocked] for a locked directory.
	Probe(dir string) error
}

// The encryption modes and flags that this package sets.
const (
	ModeAES256XTS uint8 = 1
	ModeAES256CTS uint8 = 4
	FlagPad32     uint8 = 3
)

const (
	policyVersion2 = 2
	policySize     = 24
	specIdentifier = 2
	specSize       = 40
	addKeySize     = 80
	removeKeySize  = 64
	keyStatusSize  = 128
	getPolicySize  = 8 + policySize
	oldPolicySize  = 12

	statusPresent    = 2
	statusIncomplete = 3
	flagFilesBusy    = 1
	maxKey           = 64
)

// Identifier names a key without giving it away: the kernel derives it from the
// key.
type Identifier [16]byte

// String returns 32 hexadecimal digits.
func (i Identifier) String() string { return hex.EncodeToString(i[:]) }

// Identify returns the identifier of a master key.
func Identify(key []byte) (Identifier, error) {
	var id Identifier
	if len(key) != 32 && len(key) != maxKey {
		return id, ErrKeySize
	}
	// The kernel's HKDF application string and its context byte for key
	// identifiers (fscrypt documentation, "Master keys").
	out, err := hkdf.Key(sha512.New, key, nil, "fscrypt\x00\x01", len(id))
	if err != nil {
		return id, fmt.Errorf("fscrypt: derive identifier: %w", err)
	}
	copy(id[:], out)
	return id, nil
}

// Policy is the encryption policy of a directory.
type Policy struct {
	// Version is 2 for every policy that this package sets.
	Version uint8
	// Contents and Names are encryption modes.
	Contents, Names uint8
	// Flags hold the padding of names and further options.
	Flags uint8
	// Log2DataUnit is 0 for units of one file system block.
	Log2DataUnit uint8
	// Identifier names the key. It is zero for policies of version 1.
	Identifier Identifier
}

// NewPolicy returns the policy that this package sets for a key.
func NewPolicy(id Identifier) Policy {
	return Policy{Version: policyVersion2, Contents: ModeAES256XTS, Names: ModeAES256CTS, Flags: FlagPad32, Identifier: id}
}

// GetPolicy returns the policy of a directory. It works on a locked directory
// as well. [ErrPlain] and [ErrUnsupported] are the outcomes to expect.
func GetPolicy(k Kernel, dir string) (Policy, error) {
	var arg [getPolicySize]byte
	binary.NativeEndian.PutUint64(arg[:], policySize)
	if err := k.Ioctl(dir, RequestGetPolicy, arg[:]); err != nil {
		switch {
		case errors.Is(err, syscall.ENODATA):
			return Policy{}, ErrPlain
		case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EOPNOTSUPP):
			return Policy{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return Policy{}, fmt.Errorf("fscrypt: read policy: %w", err)
	}
	p := Policy{Version: arg[8], Contents: arg[9], Names: arg[10], Flags: arg[11]}
	switch size := binary.NativeEndian.Uint64(arg[:]); {
	case p.Version == policyVersion2 && size == policySize:
		p.Log2DataUnit = arg[12]
		copy(p.Identifier[:], arg[16:])
	case size != oldPolicySize:
		return Policy{}, fmt.Errorf("fscrypt: read policy: unknown version %d", p.Version)
	}
	return p, nil
}

// SetPolicy encrypts an empty directory. Setting the policy that the directory
// has already is no error. The key need not be there yet.
func SetPolicy(k Kernel, dir string, p Policy) error {
	var arg [policySize]byte
	arg[0], arg[1], arg[2], arg[3], arg[4] = p.Version, p.Contents, p.Names, p.Flags, p.Log2DataUnit
	copy(arg[8:], p.Identifier[:])
	err := k.Ioctl(dir, RequestSetPolicy, arg[:])
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTEMPTY):
		return ErrNotEmpty
	case errors.Is(err, syscall.EEXIST):
		return ErrOtherPolicy
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("fscrypt: set policy: %w", err)
}

// AddKey hands a key to the kernel for the file system that holds dir. Nothing
// is proved by its success but that the kernel took the key: see
// [Kernel.Probe]. The key passes through locked memory that is wiped.
func AddKey(k Kernel, dir string, key []byte) (Identifier, error) {
	want, err := Identify(key)
	if err != nil {
		return want, err
	}
	buf, err := secmem.New(addKeySize + len(key))
	if err != nil {
		return want, fmt.Errorf("fscrypt: add key: %w", err)
	}
	defer buf.Destroy()
	arg := buf.Bytes()
	binary.NativeEndian.PutUint32(arg, specIdentifier)
	binary.NativeEndian.PutUint32(arg[specSize:], uint32(len(key)))
	copy(arg[addKeySize:], key)
	if err := k.Ioctl(dir, RequestAddKey, arg); err != nil {
		if errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EOPNOTSUPP) {
			return want, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return want, fmt.Errorf("fscrypt: add key: %w", err)
	}
	if got := Identifier(arg[8:24]); got != want {
		return want, fmt.Errorf("fscrypt: add key: the kernel calls it %s, not %s", got, want)
	}
	return want, nil
}

// RemoveKey takes a key away from the kernel, whoever added it, so that the
// directories under it are locked. A key that is not there is no error. With
// [ErrBusy] the key itself is gone and a later call ends what open files kept.
func RemoveKey(k Kernel, dir string, id Identifier) error {
	var arg [removeKeySize]byte
	putSpec(arg[:], id)
	err := k.Ioctl(dir, RequestRemoveKey, arg[:])
	switch {
	case errors.Is(err, NoKey):
		return nil
	case err != nil:
		return fmt.Errorf("fscrypt: remove key: %w", err)
	case binary.NativeEndian.Uint32(arg[specSize:])&flagFilesBusy != 0:
		return ErrBusy
	}
	return nil
}

// Presence says how far the kernel has a key.
type Presence uint8

// The presences of a key.
const (
	Absent Presence = iota
	Present
	// Incomplete means removed, with files still open.
	Incomplete
)

// KeyPresence asks whether the kernel has a key for the file system of dir.
func KeyPresence(k Kernel, dir string, id Identifier) (Presence, error) {
	var arg [keyStatusSize]byte
	putSpec(arg[:], id)
	if err := k.Ioctl(dir, RequestKeyStatus, arg[:]); err != nil {
		if errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EOPNOTSUPP) {
			return Absent, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return Absent, fmt.Errorf("fscrypt: key status: %w", err)
	}
	switch binary.NativeEndian.Uint32(arg[64:]) {
	case statusPresent:
		return Present, nil
	case statusIncomplete:
		return Incomplete, nil
	}
	return Absent, nil
}

func putSpec(arg []byte, id Identifier) {
	binary.NativeEndian.PutUint32(arg, specIdentifier)
	copy(arg[8:], id[:])
}
