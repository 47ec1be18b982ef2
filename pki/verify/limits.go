package verify

const (
	// minRSA and maxRSA bound the modulus in bits. Above 8192 a verification
	// costs so much that a peer could use it against us.
	minRSA = 2048
	maxRSA = 8192
	// minExponent is the smallest RSA public exponent, NIST SP 800-56B.
	minExponent = 65537
	// maxSerial is the longest serial number in octets, RFC 5280 section 4.1.2.2.
	maxSerial = 20
	// maxPresented bounds the certificates that one peer or file may bring.
	maxPresented = 32
	// maxQuoted bounds how much of a name goes into a text.
	maxQuoted = 200
	// maxSubtrees bounds the name constraints of one certificate.
	maxSubtrees = 1024
)
