package directory

import "time"

const (
	// MaxBody bounds what is published, in bytes.
	MaxBody = 16 << 10

	maxVersions   = 64  // of one certificate
	maxReason     = 200 // octets
	maxRecord     = 4 << 20
	maxClients    = 10_000 // addresses that are told apart
	clientIdle    = 10 * time.Minute
	minRSABits    = 2048
	maxRSABits    = 8192
	clientTimeout = 30 * time.Second
)
