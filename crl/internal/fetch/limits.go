package fetch

import "time"

const (
	// maxRedirects bounds how often a server may send us elsewhere.
	maxRedirects = 5
	// maxResumes bounds how often a broken transfer is taken up again.
	maxResumes = 5
	// dialTimeout bounds making a connection, TLS included each.
	dialTimeout = 15 * time.Second
	// idleTimeout bounds the wait for the next bytes.
	idleTimeout = 30 * time.Second
	// totalTimeout bounds one fetch with all its redirects and resumptions.
	totalTimeout = 15 * time.Minute
	// minRate in bytes per second is the least that a server must send on
	// average, once rateGrace has passed.
	minRate   = 1 << 10
	rateGrace = 30 * time.Second
	// maxHeader bounds the response header in bytes.
	maxHeader = 64 << 10
	// maxValidator bounds an ETag or Last-Modified that is sent back.
	maxValidator = 1024
)
