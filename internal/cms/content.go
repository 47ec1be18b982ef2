package cms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
)

// openAny decrypts the content with one of the keys, and says with which. The choice is made from the content alone, so it
// is the same whether a key that does not fit came out of a block in order or stands for one that is not. The tag decides
// with AES-GCM. With AES-CBC the longest padding does: one in 256 wrong keys gives a padding of one byte, and hardly any
// gives more.
func (e *envelope) openAny(keys [][]byte, own bool) (content []byte, used int, err error) {
	switch {
	case len(keys) == 1:
	case e.alg.gcm:
		return e.tryGCM(keys)
	default:
		longest := 0
		for i, cek := range keys {
			if pad := e.padding(cek); pad > longest {
				longest, used = pad, i
			}
		}
	}
	content, err = e.open(keys[used], own)
	return content, used, err
}

// tryGCM tries the keys on a copy of the content, since one that does not fit clears it.
func (e *envelope) tryGCM(keys [][]byte) (content []byte, used int, err error) {
	try := *e
	try.ciphertext = make([]byte, len(e.ciphertext), len(e.ciphertext)+len(e.mac))
	for i, cek := range keys {
		copy(try.ciphertext, e.ciphertext)
		if content, err = try.open(cek, true); err == nil {
			return content, i, nil
		}
	}
	return nil, 0, err
}

// padding gives the length of the padding that a key finds in the last block, 0 when there is none. The lengths are
// those that check has looked at.
func (e *envelope) padding(cek []byte) int {
	last := *e
	if n := len(e.ciphertext) - aes.BlockSize; n > 0 {
		last.alg.iv, last.ciphertext = e.ciphertext[n-aes.BlockSize:n], e.ciphertext[n:]
	}
	content, err := last.open(cek, false)
	if err != nil {
		return 0
	}
	return aes.BlockSize - len(content)
}

// open decrypts the content. own says that the ciphertext may be overwritten by the plain text. Every failure is
// ErrDecrypt, and comes after the whole content was worked through.
func (e *envelope) open(cek []byte, own bool) ([]byte, error) {
	if e.alg.bound != nil {
		var err error
		if cek, err = bindKey(cek, e.alg.bound); err != nil {
			return nil, ErrDecrypt
		}
		defer clear(cek)
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, ErrDecrypt
	}
	if e.alg.gcm {
		return e.openGCM(block, own)
	}
	return e.openCBC(block, own)
}

// bindKey derives the key that encrypts the content from the one that the recipients got and from the algorithm
// identifier (RFC 9709, section 2), so that with another algorithm the key is another one.
func bindKey(cek, alg []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, cek, []byte("The Cryptographic Message Syntax"), string(alg), len(cek))
}

func newGCM(block cipher.Block, a contentAlg) (cipher.AEAD, error) {
	if a.tagLen == maxTag {
		return cipher.NewGCMWithNonceSize(block, len(a.iv))
	}
	return cipher.NewGCMWithTagSize(block, a.tagLen)
}

func (e *envelope) openGCM(block cipher.Block, own bool) ([]byte, error) {
	aead, err := newGCM(block, e.alg)
	if err != nil {
		return nil, ErrDecrypt
	}
	n := len(e.ciphertext)
	var sealed []byte
	if own && cap(e.ciphertext)-n >= len(e.mac) {
		sealed = append(e.ciphertext, e.mac...)
	} else {
		sealed = append(append(make([]byte, 0, n+len(e.mac)), e.ciphertext...), e.mac...)
	}
	// The tag is verified before any plain text is written, and on failure the buffer is cleared.
	plain, err := aead.Open(sealed[:0], e.alg.iv, sealed, e.aad)
	if err != nil {
		return nil, ErrDecrypt
	}
	return plain, nil
}

func (e *envelope) openCBC(block cipher.Block, own bool) ([]byte, error) {
	out := e.ciphertext
	if !own {
		out = make([]byte, len(e.ciphertext))
	}
	cipher.NewCBCDecrypter(block, e.alg.iv).CryptBlocks(out, e.ciphertext)
	pad, ok := checkPadding(out)
	if ok != 1 {
		clear(out)
		return nil, ErrDecrypt
	}
	return out[:len(out)-pad], nil
}

// checkPadding reads the padding of RFC 5652, section 6.3, from the last block, in time that does not depend on it.
func checkPadding(b []byte) (pad, ok int) {
	last := b[len(b)-aes.BlockSize:]
	pad = int(last[aes.BlockSize-1])
	ok = subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, aes.BlockSize)
	for i := range aes.BlockSize {
		inside := subtle.ConstantTimeLessOrEq(aes.BlockSize-pad, i)
		same := subtle.ConstantTimeByteEq(last[i], byte(pad))
		ok &= (inside ^ 1) | same
	}
	return pad, ok
}
