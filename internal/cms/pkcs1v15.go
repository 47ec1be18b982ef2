package cms

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"io"
)

// PKCS #1 v1.5 encryption is deprecated, and rightly so. It is what the commands that RFC 8886 shows write, and what
// devices that follow it to the letter read, so it stays, in this file, with the defences that contentKeys describes.

// encryptPKCS1v15 encrypts a content key for a device that reads nothing newer.
func encryptPKCS1v15(pub *rsa.PublicKey, cek []byte) ([]byte, error) {
	//lint:ignore SA1019 the format asks for it, see above
	return rsa.EncryptPKCS1v15(rand.Reader, pub, cek)
}

// decryptPKCS1v15 gives the content key, or rejected when the block is not in order. The random source begins with
// the rejected key: that is what Decrypt reads first, and gives back for a bad block.
func decryptPKCS1v15(key crypto.Decrypter, block, rejected []byte) ([]byte, error) {
	source := io.MultiReader(bytes.NewReader(rejected), rand.Reader)
	//lint:ignore SA1019 the format asks for it, see above
	return key.Decrypt(source, block, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: len(rejected)})
}
