package integrity

import "context"

// KeySize is the size of the wrapped key in bytes.
const KeySize = 32

// KeyWrapper gives a key out on this machine only. It is the seam where a
// product brings its own hardware.
//
// Both key and binding are 32 bytes long. The caller owns all slices, wipes key,
// and makes one call at a time. Errors carry a code of package cause where one
// fits; cause.RecordCorrupt for wrapped bytes that are damaged, cause.ManifestForged
// for a binding other than the one at wrapping.
type KeyWrapper interface {
	// Wrap returns a form of key that only this machine can open, bound to
	// binding. Wrapping again gives another form; all of them open.
	Wrap(ctx context.Context, key, binding []byte) (wrapped []byte, err error)
	// Unwrap opens what Wrap returned, into key. It fails, and leaves key as it
	// is, when binding is not the one of Wrap. vouched reports whether the
	// machine's own memory holds the binding, which only an [Anchor] can say;
	// a machine that holds another binding is an error.
	Unwrap(ctx context.Context, wrapped, binding, key []byte) (vouched bool, err error)
}

// Anchor is the power of a KeyWrapper to remember, outside of the disk, that
// this system is protected, and how.
type Anchor interface {
	// Commit stores the binding for good. The same one again is no error,
	// another one is.
	Commit(ctx context.Context, binding [32]byte) error
	// Committed returns what Commit stored.
	Committed(ctx context.Context) (binding [32]byte, ok bool, err error)
}

// KeySource is the power of a KeyWrapper to make keys. Without it they come from
// crypto/rand.
type KeySource interface {
	// GenerateKey fills key with secret random bytes.
	GenerateKey(ctx context.Context, key []byte) error
}

// Capper is the power of a KeyWrapper to withhold the key from now until the
// machine restarts. It is used once every directory is open.
type Capper interface {
	Cap(ctx context.Context) error
}

// Checker is the power of a KeyWrapper to say beforehand why it cannot work, and
// what hardware it uses.
type Checker interface {
	// Check returns every reason that stands in the way. An error with a method
	// Warning() bool that returns true is advice only.
	Check(ctx context.Context) []error
	// Describe names the hardware in one line.
	Describe(ctx context.Context) (string, error)
}
