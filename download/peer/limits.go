package peer

import "time"

const (
	maxPassports  = 1024
	maxStatuses   = 1024
	maxStatusFile = 1 << 20
	maxIndexFile  = 8 << 20
	pieceSize     = 1 << 20
	limitedPiece  = 16 << 10
	writeTimeout  = 60 * time.Second
	scanEvery     = 250 * time.Millisecond
	maxBandwidth  = 999_999_999_999
)
