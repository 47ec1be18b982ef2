package partial

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/mooringlib/mooring/download/repo"
)

// The journal, all numbers big-endian:
//
//	 8  magic "MOORJNL1"
//	32  identity of the image
//	 4  number of chunks
//	 n  one bit for each chunk, the lowest bit of a byte first: verified and synced
//	 4  CRC-32C of everything before
//
// The passport:
//
//	8  magic "MOORPAS1"
//	4  length of the envelope, then the envelope
//	4  length of the chunk list, then the chunk list
//	4  CRC-32C of everything before
const (
	journalMagic  = "MOORJNL1"
	passportMagic = "MOORPAS1"

	maxChunks        = repo.MaxChunkListBytes / repo.DigestSize
	maxEnvelopeBytes = 16 << 10
	maxJournalBytes  = 64 + maxChunks/8
	maxPassportBytes = 64 + maxEnvelopeBytes + repo.MaxChunkListBytes
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errJournal = errors.New("partial: not a journal")
)

// Journal says which chunks of an image are durable.
type Journal struct {
	Identity repo.Digest
	Chunks   []bool
}

func (j Journal) encode() []byte {
	out := append([]byte(journalMagic), j.Identity[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(j.Chunks)))
	bits := make([]byte, (len(j.Chunks)+7)/8)
	for i, set := range j.Chunks {
		if set {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return seal(append(out, bits...))
}

// ParseJournal reads a journal; anything but a whole and undamaged one is an
// error.
func ParseJournal(data []byte) (Journal, error) {
	var j Journal
	body, ok := unseal(data, journalMagic, maxJournalBytes)
	if !ok || len(body) < len(j.Identity)+4 {
		return j, errJournal
	}
	body = body[copy(j.Identity[:], body):]
	count := binary.BigEndian.Uint32(body)
	bits := body[4:]
	if count == 0 || count > maxChunks || len(bits) != int(count+7)/8 {
		return j, errJournal
	}
	if spare := count % 8; spare != 0 && bits[len(bits)-1]>>spare != 0 {
		return j, errJournal
	}
	j.Chunks = make([]bool, count)
	for i := range j.Chunks {
		j.Chunks[i] = bits[i/8]>>(i%8)&1 == 1
	}
	return j, nil
}

// Passport is what stands beside an image: enough to serve it to a peer and to
// verify it again.
type Passport struct {
	Envelope []byte
	List     []byte
}

func (p Passport) encode() []byte {
	out := []byte(passportMagic)
	for _, part := range [][]byte{p.Envelope, p.List} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return seal(out)
}

// ParsePassport reads a passport. It does not check the signature inside.
func ParsePassport(data []byte) (Passport, error) {
	var p Passport
	body, ok := unseal(data, passportMagic, maxPassportBytes)
	for _, part := range []*[]byte{&p.Envelope, &p.List} {
		if !ok || len(body) < 4 {
			return Passport{}, errors.New("partial: not a passport")
		}
		n := binary.BigEndian.Uint32(body)
		if uint64(n) > uint64(len(body)-4) {
			return Passport{}, errors.New("partial: not a passport")
		}
		*part, body = bytes.Clone(body[4:4+n]), body[4+n:]
	}
	if len(body) != 0 {
		return Passport{}, errors.New("partial: not a passport")
	}
	return p, nil
}

func seal(body []byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

func unseal(data []byte, magic string, limit int) ([]byte, bool) {
	n := len(data) - 4
	if n < len(magic) || len(data) > limit || string(data[:len(magic)]) != magic {
		return nil, false
	}
	if crc32.Checksum(data[:n], castagnoli) != binary.BigEndian.Uint32(data[n:]) {
		return nil, false
	}
	return data[len(magic):n], true
}
