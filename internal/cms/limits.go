package cms

// Bounds on everything that comes from outside. They are checked before memory is taken or a private key is used.
const (
	// DetectLen is how many leading bytes Detect needs to give its final answer.
	DetectLen = 16 << 10
	// DefaultMaxSize is the largest message that is read when the caller sets no bound.
	DefaultMaxSize = 16 << 20

	// maxNesting bounds how deep constructed values may stand in each other.
	maxNesting = 32
	// maxRecipients bounds the recipients of a message, those of other kinds included.
	maxRecipients = 64
	// maxTries bounds how often the private key is used for one message.
	maxTries = 16
	// maxMeta bounds one element other than the content, such as a recipient, an attribute set or a certificate.
	maxMeta = 256 << 10
	// maxElements bounds the elements that are rewritten to DER in one message.
	maxElements = 1 << 16
	// maxKeyBlob bounds an encrypted content key; RSA with 16384 bits gives 2048.
	maxKeyBlob = 2048
	// maxRSABits bounds the key size of a recipient or signer, since the cost of its use grows with the cube.
	maxRSABits = 16384
	// minRSABits is the smallest RSA key that is used.
	minRSABits = 2048
	// maxLabel bounds the OAEP label.
	maxLabel = 1024
	// maxUKM bounds the user keying material of a key agreement.
	maxUKM = 1024
	// minNonce, maxNonce and minTag, maxTag are the only sizes taken for AES-GCM (RFC 5084, section 3.2).
	minNonce, maxNonce = 12, 16
	minTag, maxTag     = 12, 16

	// maxSigners bounds the signers of a signed message.
	maxSigners = 8
	// maxCertificates bounds the certificates that a signed message brings.
	maxCertificates = 16
	// maxAttributes bounds the signed attributes of one signer.
	maxAttributes = 32
	// maxSerial bounds a device's serial number in the owner's attributes.
	maxSerial = 128
)
