package autoinstall

import "time"

const (
	// DefaultMaxSize bounds a file, as it is fetched and as it is decrypted.
	DefaultMaxSize = 16 << 20

	maxURL       = 2048
	maxSources   = 16 // looked at in one attempt
	maxResolvers = 4  // name servers taken from a Location
	maxParts     = 1000
	maxReason    = 400 // of an error's text that Status keeps
	maxRedirects = 3
	maxStateSize = 64 << 10

	// refusalTime is longer than a TPM and a sanity check take together.
	refusalTime = 2 * time.Second

	httpHeaderTimeout = 30 * time.Second
	httpTimeout       = 15 * time.Minute
)
