package tpmkey

const (
	// maxPEM bounds a key file. The largest key that is made here, RSA 4096,
	// takes about 3 KiB.
	maxPEM = 16 << 10
	// maxArea bounds each of the two TPM structures in a key file, which carry
	// a 16-bit length.
	maxArea = 4 << 10
	// nonceSize is the size of the caller's nonce in a session, in bytes.
	nonceSize = 16
	// symBits is the size of the AES key that encrypts parameters.
	symBits = 128
)
