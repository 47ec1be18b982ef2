package fscrypt

import "errors"

var (
	// ErrUnsupported means that the file system, its settings or the kernel
	// cannot encrypt.
	ErrUnsupported = errors.New("fscrypt: encryption is not supported here")
	// ErrPlain means that the directory is not encrypted.
	ErrPlain = errors.New("fscrypt: not encrypted")
	// ErrBusy means that the key was removed, but files that are still open, or
	// a process that works inside, keep part of the directory readable.
	ErrBusy = errors.New("fscrypt: files are still in use")
	// ErrLocked means that the key of the directory is not there.
	ErrLocked = errors.New("fscrypt: directory is locked")
	// ErrNotEmpty means that a directory holds files already.
	ErrNotEmpty = errors.New("fscrypt: directory is not empty")
	// ErrOtherPolicy means that the directory has another policy already.
	ErrOtherPolicy = errors.New("fscrypt: directory has another encryption policy")
	// ErrKeySize means that a key is not 32 or 64 bytes long.
	ErrKeySize = errors.New("fscrypt: key is not 32 or 64 bytes long")
)
