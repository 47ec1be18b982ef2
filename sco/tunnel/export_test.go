package tunnel

import (
	"net"
	"time"
)

// Exported for the tests: the decoders, and the encoding that they undo.
var (
	DecodeOpenTCP          = decodeOpenTCP
	DecodeForwardRequest   = decodeForwardRequest
	DecodeInitializeOpen   = decodeInitializeOpen
	DecodeInitializeAnswer = decodeInitializeAnswer
)

// NewAdmission makes an admission for tests.
func NewAdmission(limit int, grace time.Duration) func(c net.Conn, now time.Time) (leave func(), ok bool) {
	a := &admission{max: limit, grace: grace}
	return a.enter
}
