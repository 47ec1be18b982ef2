package tftp

import "time"

// What a client asks for when its Config says nothing, and what it can be told
// to ask for.
const (
	// DefaultBlockSize fills an Ethernet frame of 1500 octets over IPv4.
	DefaultBlockSize = 1468
	// DefaultWindowSize is the number of blocks in flight where the server has
	// RFC 7440: enough for 4.7 MB/s at 20 ms, and small enough for the receive
	// buffer of a socket.
	DefaultWindowSize = 64
	// DefaultMaxSize bounds a file.
	DefaultMaxSize = 16 << 20
	// DefaultResend is the time without progress after which the last packet
	// is sent again. It doubles with each try, up to maxResend.
	DefaultResend = time.Second
	// DefaultTries is how often a packet is sent before the server is taken
	// for gone.
	DefaultTries = 6
	// DefaultTimeout bounds a whole transfer, so that a server that sends a
	// little now and then can't hold the client for ever.
	DefaultTimeout = 15 * time.Minute
)

const (
	plainBlockSize  = 512   // RFC 1350, when blksize was not agreed on
	minBlockSize    = 8     // RFC 2348
	maxBlockSize    = 65464 // RFC 2348
	maxWindowSize   = 1024  // our own; RFC 7440 allows 65535
	v6BlockOverhead = 20    // an IPv6 header is that much longer

	maxResend     = 5 * time.Second
	maxFileName   = 255
	maxOptions    = 16  // in one OACK
	maxOptionText = 32  // octets in an option's name or value
	maxErrorText  = 200 // of a server's message that we keep
	maxRefusals   = 32  // ERROR 5 packets sent in one transfer
)
