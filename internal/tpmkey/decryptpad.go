package tpmkey

import (
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
)

// unpadder returns the function that takes the padding off what a bare RSA
// operation gave. The functions run in time that depends on the sizes alone.
func unpadder(rand io.Reader, size int, opts crypto.DecrypterOpts) (func(em []byte) ([]byte, error), error) {
	switch o := opts.(type) {
	case *rsa.OAEPOptions:
		mgf := o.MGFHash
		if mgf == 0 {
			mgf = o.Hash
		}
		if !o.Hash.Available() || !mgf.Available() || size < 2*o.Hash.Size()+2 {
			return nil, fmt.Errorf("%w: OAEP with hash %d and %d and a key of %d bytes", ErrUnsupported, o.Hash, mgf, size)
		}
		return func(em []byte) ([]byte, error) { return unpadOAEP(em, o.Hash, mgf, o.Label) }, nil
	//lint:ignore SA1019 RFC 8886 devices get messages in this format; there is no way to ask for it without a session key length
	case *rsa.PKCS1v15DecryptOptions:
		if o.SessionKeyLen < 1 || o.SessionKeyLen > size-11 {
			return nil, fmt.Errorf("%w: PKCS #1 v1.5 with a session key of %d bytes", ErrUnsupported, o.SessionKeyLen)
		}
		key := make([]byte, o.SessionKeyLen)
		if _, err := io.ReadFull(rand, key); err != nil {
			return nil, fmt.Errorf("tpmkey: random session key: %w", err)
		}
		return func(em []byte) ([]byte, error) {
			unpadPKCS1v15(em, key)
			return key, nil
		}, nil
	}
	return nil, fmt.Errorf("%w: decryption options of type %T", ErrUnsupported, opts)
}

// unpadPKCS1v15 overwrites key with the message when the block is in order and
// its message is as long as key (RFC 8017, section 7.2.2), and leaves it
// otherwise. Since the length is known, the zero that ends the padding can be in
// one place only.
func unpadPKCS1v15(em, key []byte) {
	end := len(em) - len(key) - 1
	ok := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeByteEq(em[1], 2) & subtle.ConstantTimeByteEq(em[end], 0)
	for _, b := range em[2:end] {
		ok &= 1 ^ subtle.ConstantTimeByteEq(b, 0)
	}
	subtle.ConstantTimeCopy(ok, key, em[end+1:])
}

// unpadOAEP is RFC 8017, section 7.1.2, step 3. All that can be wrong gives one
// error, after the same work (section 7.1.2, note on Manger's attack).
func unpadOAEP(em []byte, hash, mgf crypto.Hash, label []byte) ([]byte, error) {
	size := hash.Size()
	seed, db := em[1:1+size], em[1+size:]
	mgf1XOR(seed, mgf, db)
	mgf1XOR(db, mgf, seed)
	h := hash.New()
	h.Write(label)
	ok := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:size], h.Sum(nil))
	rest := db[size:]
	index, looking := 0, 1
	for i, b := range rest {
		isOne := subtle.ConstantTimeByteEq(b, 1)
		isZero := subtle.ConstantTimeByteEq(b, 0)
		index = subtle.ConstantTimeSelect(looking&isOne, i, index)
		looking &= 1 ^ isOne
		ok &= 1 ^ (looking & (1 ^ isZero))
	}
	if ok&(1^looking) != 1 {
		return nil, rsa.ErrDecryption
	}
	return append([]byte(nil), rest[index+1:]...), nil
}

// mgf1XOR is MGF1 (RFC 8017, appendix B.2.1) of seed, added to out.
func mgf1XOR(out []byte, hash crypto.Hash, seed []byte) {
	var mask []byte
	for counter := uint32(0); len(mask) < len(out); counter++ {
		h := hash.New()
		h.Write(seed)
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		mask = h.Sum(mask)
	}
	subtle.XORBytes(out, out, mask)
}
