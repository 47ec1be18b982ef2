package tunnel

// Exported for the tests: the decoders, and the encoding that they undo.
var (
	DecodeOpenTCP          = decodeOpenTCP
	DecodeForwardRequest   = decodeForwardRequest
	DecodeInitializeOpen   = decodeInitializeOpen
	DecodeInitializeAnswer = decodeInitializeAnswer
)
