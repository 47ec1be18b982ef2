package download

import "time"

// Bounds of the product's configuration, and of what sources and files may say.
const (
	maxRetryDelayLimit = 86400 * time.Second
	minTimeout         = 1800 * time.Second
	maxTimeout         = 604800 * time.Second
	maxBandwidthLimit  = 999_999_999_999
	maxAttempts        = 1_000_000

	maxSources      = 64
	maxStatusBytes  = 1 << 20
	maxCounterBytes = 4 << 20
	maxRetryAfter   = time.Hour
	maxConnections  = 64
)
