package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// Role says for whom and for which message a hash is made. No two messages
// share one, so that none can stand in for another.
type Role uint8

// The roles. Their numbers are part of the protocol.
const (
	RoleHello     Role = 1
	RoleChallenge Role = 2
	RoleProof     Role = 3
	RoleAccept    Role = 4
	RoleAck       Role = 5
	// RoleDevice is what the device key signs or the TPM quotes, and
	// RoleSSHKey what the router's SSH key signs.
	RoleDevice Role = 6
	RoleSSHKey Role = 7
)

const (
	transcriptLabel = "mooring sco/1 transcript"
	macLabel        = "mooring sco/1 mac"
)

// Transcript collects what both sides have said and known.
type Transcript struct {
	// Exporter is the TLS exporter of RFC 9266.
	Exporter []byte
	// TokenHash is the SHA-256 of the whole token, its secret included.
	TokenHash [32]byte
	AssetID   string
	// Mode is the conductor's, 0 before it is known.
	Mode          uint8
	NonceR        [NonceLen]byte
	NonceC        [NonceLen]byte
	HelloBody     []byte
	ChallengeBody []byte
	ProofBody     []byte
	AcceptBody    []byte
}

// Digest hashes everything for one role. Each field is preceded by its length,
// so that no two transcripts have the same encoding.
func (t *Transcript) Digest(role Role) [32]byte {
	h := sha256.New()
	field := func(b []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte(transcriptLabel))
	h.Write([]byte{Version >> 8, Version & 0xff, uint8(role), t.Mode})
	field(t.Exporter)
	field(t.TokenHash[:])
	field([]byte(t.AssetID))
	field(t.NonceR[:])
	field(t.NonceC[:])
	for _, b := range [][]byte{t.HelloBody, t.ChallengeBody, t.ProofBody, t.AcceptBody} {
		field(b)
	}
	var out [32]byte
	h.Sum(out[:0])
	return out
}

// Keys derives the keys of the MACs.
type Keys struct {
	base []byte
}

// NewKeys derives from a router's secret and the hash of its token.
func NewKeys(secret string, tokenHash [32]byte) *Keys {
	return &Keys{base: mac(tokenHash[:], []byte(secret))}
}

// Activated mixes in what a TPM released, from the proof on.
func (k *Keys) Activated(secret []byte) {
	k.base = mac(secret, k.base)
}

// MAC authenticates the transcript for a role.
func (k *Keys) MAC(role Role, t *Transcript) [MACLen]byte {
	d := t.Digest(role)
	key := mac(k.base, append([]byte(macLabel), uint8(role)))
	return [MACLen]byte(mac(key, d[:]))
}

// Verify compares in constant time.
func (k *Keys) Verify(role Role, t *Transcript, got [MACLen]byte) bool {
	want := k.MAC(role, t)
	return hmac.Equal(want[:], got[:])
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
