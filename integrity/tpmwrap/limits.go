package tpmwrap

import "time"

const (
	keySize     = 32
	bindingSize = 32
	// maxBlob bounds a wrapped key.
	maxBlob = 8 << 10
	// maxField bounds one field of it.
	maxField = 2 << 10
	maxPCR   = 23
	// maxCapPCR is the last PCR that only a restart resets (PC Client Platform
	// TPM Profile, PCR attributes).
	maxCapPCR = 15
	// maxIncrements bounds how far one call moves the counter: each step is a
	// write to the TPM's flash memory.
	maxIncrements = 4096
	maxLabel      = 128

	defaultTimeout = time.Minute
)
