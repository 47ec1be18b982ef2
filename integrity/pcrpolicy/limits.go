package pcrpolicy

const (
	// maxDocument bounds a policy file.
	maxDocument = 64 << 10
	// maxAlternatives bounds how many boot states one document allows: the
	// TPM is asked about one after the other.
	maxAlternatives = 16
	maxPCR          = 23
	maxReference    = 128
	maxSignature    = 512
)
