package cms

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// curveName names the curves that are used, and gives nothing for others.
func curveName(c ecdh.Curve) string {
	switch c {
	case ecdh.P256():
		return "P-256"
	case ecdh.P384():
		return "P-384"
	case ecdh.P521():
		return "P-521"
	}
	return ""
}

// contentKeys uses the private key once for every candidate and gives a content key for each: that of the candidate, or
// one that the sender cannot know when the candidate is not in order. Which of the two it is does not leave this function,
// and no candidate's key takes the place of another's: when a good key gave way to that of the next candidate only if that
// one is in order as well, a sender who adds his own recipient to a block would learn whether the block is in order. The
// only error is ErrKeyUnavailable.
func (d *Decrypter) contentKeys(candidates []recipient, keyLen int) ([][]byte, error) {
	keys := make([][]byte, 0, len(candidates))
	for _, r := range candidates {
		rejected := d.rejectedKey(r, keyLen)
		key, err := d.unwrap(r, rejected)
		if unavailable(err) {
			clearKeys(keys)
			return nil, fmt.Errorf("%w: %w", ErrKeyUnavailable, err)
		}
		if err != nil || len(key) != keyLen {
			key = rejected
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func clearKeys(keys [][]byte) {
	for _, k := range keys {
		clear(k)
	}
}

// rejectedKey is the content key that stands for an encrypted key which is not in order. It is a function of that
// encrypted key and of a secret, so that asking twice gives the same answer, as it would with a good one; a fresh
// random key would tell them apart whenever it happens to give valid CBC padding. Leading zeros do not count, since they
// do not count for a good one either.
func (d *Decrypter) rejectedKey(r recipient, keyLen int) []byte {
	mac := hmac.New(sha256.New, d.secret[:])
	mac.Write(bytes.TrimLeft(r.wrapped, "\x00"))
	return mac.Sum(nil)[:keyLen]
}

func (d *Decrypter) unwrap(r recipient, rejected []byte) ([]byte, error) {
	if d.ecKey != nil {
		return d.agree(r, len(rejected))
	}
	pub, ok := d.rsaKey.Public().(*rsa.PublicKey)
	if !ok {
		return nil, errUnwrap
	}
	// RSA blocks have the size of the modulus; a sender that drops leading zeros is helped.
	block := make([]byte, pub.Size())
	copy(block[len(block)-len(r.wrapped):], r.wrapped)
	if r.oaep != nil {
		return d.rsaKey.Decrypt(rand.Reader, block, r.oaep)
	}
	return decryptPKCS1v15(d.rsaKey, block, rejected)
}

// agree is the one-pass ECDH of RFC 5753, section 3.1.3.
func (d *Decrypter) agree(r recipient, keyLen int) ([]byte, error) {
	peer, err := d.ecKey.Curve().NewPublicKey(r.point)
	if err != nil {
		return nil, errUnwrap
	}
	z, err := d.ecKey.ECDH(peer)
	if err != nil {
		return nil, err
	}
	// The X coordinate has the size of the field; hardware may have dropped leading zeros.
	defer clear(z)
	if size := len(r.point) / 2; len(z) < size {
		z = append(make([]byte, size-len(z)), z...)
		defer clear(z)
	}
	kek := deriveKEK(r.kdf, z, r.wrapAlg, r.ukm, r.kekLen)
	defer clear(kek)
	return unwrapKey(kek, r.wrapped, keyLen)
}

// unavailable reports whether the error says of itself that the key could not be used.
func unavailable(err error) bool {
	var u interface{ KeyUnavailable() bool }
	return errors.As(err, &u) && u.KeyUnavailable()
}
