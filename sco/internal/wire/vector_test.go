package wire

import "encoding/hex"

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// The vectors were computed apart, from PROTOCOL.md.
const (
	vectorDigest    = "c64a63b2e5c364db57a2af6ef128297384d87668f3d7fb274a5cbcc415b3a746"
	vectorMAC       = "b166be9a90d2136dd1a8d328cb6cfbe9ae9d3a6fd6f144a4e9d8aea34379eb0e"
	vectorActivated = "653bddca5b3a7d205a1fb64b6053145c659ceee37009e78593226fd2c5edcd64"
)
