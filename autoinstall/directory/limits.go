package directory

import "time"

const (
	// MaxBody bounds what is published, in bytes.
	MaxBody = 16 << 10

	maxVersions   = 64  // of one certificate
	maxReason     = 200 // octets
	maxRecord     = 4 << 20
	maxClients    = 10_000 // addresses that are told apart
	minRSABits    = 2048
	maxRSABits    = 8192
	clientTimeout = 30 * time.Second

	// Requests without an accepted token are recorded one by one up to a number
	// in each span of time, and counted above it.
	maxStrangers  = 10
	strangersSpan = time.Minute
)
