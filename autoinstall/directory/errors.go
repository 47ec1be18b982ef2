package directory

import "errors"

// What a caller may branch on.
var (
	// ErrNotFound: nothing is published for this serial number.
	ErrNotFound = errors.New("directory: nothing is published for this serial number")
	// ErrPublished: another certificate is published, and stays.
	ErrPublished = errors.New("directory: another certificate is published for this serial number")
	// ErrStale: the certificate to be replaced is not the one published.
	ErrStale = errors.New("directory: the certificate to be replaced is not the one that is published")
	// ErrKeyInUse: the public key belongs to another serial number.
	ErrKeyInUse = errors.New("directory: the public key is published for another serial number")
	// ErrRefused: what was sent is no acceptable certificate or key.
	ErrRefused = errors.New("directory: refused")
	// ErrUnauthorized: the token is not one of manufacturing's.
	ErrUnauthorized = errors.New("directory: the token is not accepted")
	// ErrLimited: too many requests.
	ErrLimited = errors.New("directory: too many requests")
)
