package repo

import "errors"

// Reasons for which a manifest is refused. All of them mean that nothing of
// what it offers may be used.
var (
	// ErrNotSigned says that no trusted key signed the envelope.
	ErrNotSigned = errors.New("no trusted key signed it")
	// ErrExpired says that the manifest was signed for a time that has passed.
	ErrExpired = errors.New("manifest has expired")
	// ErrMalformed says that the bytes do not follow the format.
	ErrMalformed = errors.New("malformed")
	// ErrChunkList says that a chunk list is not the one that was signed.
	ErrChunkList = errors.New("chunk list is not the signed one")
)
