package list

// Limits bound what a list may cost. They are checked before the memory or the
// disk space is used.
type Limits struct {
	// Bytes is the largest list in bytes, in DER.
	Bytes int64
	// Entries is the largest number of entries.
	Entries int
	// AllowUnnumbered accepts lists of version 1 and lists without a number,
	// which RFC 5280 forbids. Only thisUpdate protects them from rollback.
	AllowUnnumbered bool
}

const (
	// maxPrefix bounds everything before the entries.
	maxPrefix = 64 << 10
	// maxTail bounds everything behind the entries: extensions and signature.
	maxTail = 256 << 10
	// maxEntry bounds one entry.
	maxEntry = 64 << 10
	// maxPreamble bounds text before a PEM block.
	maxPreamble = 64 << 10
	// maxNumber is the longest CRL number in bytes (RFC 5280 section 5.2.3).
	maxNumber = 20
	// maxPlain bounds lists whose signature needs all bytes at once (Ed25519).
	maxPlain = 64 << 20
	// maxIssuers bounds the certificate issuers in one indirect list.
	maxIssuers = 4096
	// maxExtensions bounds the extensions of the list and of one entry.
	maxExtensions = 64

	blockSize = 256 << 10
	// chunkSize is about how many bytes of entries one goroutine takes at once.
	chunkSize = 256 << 10
	blocks    = 4
)
