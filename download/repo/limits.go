package repo

// Bounds on everything that comes from a source or from a user.
const (
	// MaxIndexBytes bounds index.json.
	MaxIndexBytes = 8 << 20
	// MaxChunkListBytes bounds a chunk list: maxChunks digests.
	MaxChunkListBytes = maxChunks * DigestSize

	maxImages        = 4096
	maxEnvelopeBytes = 16 << 10
	maxPayloadBytes  = 8 << 10
	maxSignatures    = 8
	maxKeys          = 64
	maxPEMBytes      = 64 << 10
	maxNameBytes     = 200
	maxVersionBytes  = 128
	maxChunks        = 1 << 16
	minChunkSize     = 4 << 10
	maxChunkSize     = 16 << 20
	maxImageSize     = int64(maxChunks) * maxChunkSize
	maxHaveRanges    = maxChunks
	maxCounter       = 1 << 53
)

// DigestSize is the length of every digest of a chunk, in bytes.
const DigestSize = 32
