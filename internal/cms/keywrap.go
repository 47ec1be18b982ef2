package cms

import (
	"crypto"
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// wrapIV is the initial value of RFC 3394, section 2.2.3.1.
const wrapIV = 0xa6a6a6a6a6a6a6a6

var errUnwrap = errors.New("cms: key unwrap failed")

// wrapKey is the AES key wrap of RFC 3394, section 2.2.1. The key is a multiple of 8 bytes, 16 or more.
func wrapKey(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(key) / 8
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], wrapIV)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[8:], out[8*i:])
			block.Encrypt(b[:], b[:])
			t := binary.BigEndian.Uint64(b[:8]) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(b[:8], t)
			copy(out[8*i:], b[8:])
		}
	}
	copy(out, b[:8])
	return out, nil
}

// unwrapKey is RFC 3394, section 2.2.2, for a key of the given length. The check value is compared in constant time.
func unwrapKey(kek, wrapped []byte, keyLen int) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(wrapped) != keyLen+8 || keyLen < 16 || keyLen%8 != 0 {
		return nil, errUnwrap
	}
	n := keyLen / 8
	key := make([]byte, keyLen)
	copy(key, wrapped[8:])
	var b [16]byte
	copy(b[:8], wrapped)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := binary.BigEndian.Uint64(b[:8]) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(b[:8], t)
			copy(b[8:], key[8*(i-1):])
			block.Decrypt(b[:], b[:])
			copy(key[8*(i-1):], b[8:])
		}
	}
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], wrapIV)
	if subtle.ConstantTimeCompare(b[:8], want[:]) != 1 {
		return nil, errUnwrap
	}
	return key, nil
}

// deriveKEK is the X9.63 key derivation (SEC 1, section 3.6.1) over ECC-CMS-SharedInfo (RFC 5753, section 7.2). ukm is
// a DER OCTET STRING or nil.
func deriveKEK(h crypto.Hash, z, wrapAlg, ukm []byte, kekLen int) []byte {
	var bits [4]byte
	binary.BigEndian.PutUint32(bits[:], uint32(kekLen)*8)
	var entity []byte
	if ukm != nil {
		entity = tlv(context0, ukm)
	}
	info := tlv(tagSequence, wrapAlg, entity, tlv(context2, tlv(tagOctets, bits[:])))
	var out []byte
	for counter := uint32(1); len(out) < kekLen; counter++ {
		d := h.New()
		d.Write(z)
		d.Write(binary.BigEndian.AppendUint32(nil, counter))
		d.Write(info)
		out = d.Sum(out)
	}
	return out[:kekLen]
}
