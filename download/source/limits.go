package source

import "time"

const (
	maxRedirects      = 5
	maxHeaderBytes    = 64 << 10
	maxRetryAfter     = time.Hour
	unsaidRetryAfter  = 10 * time.Second // for a 429 that does not say
	dialAgain         = time.Second
	maxDials          = 4
	maxIdle           = 64
	tlsTimeout        = 10 * time.Second
	limitedWindow     = 100 * time.Millisecond // of receive buffer at the rate limit
	smallestReceive   = 8 << 10
	largestReceive    = 4 << 20
	contentRangeBytes = 100
)
