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

const transcriptLabel = "mooring sco/1 transcript"

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
	// The short fields are gathered, so that the hash is fed at few times.
	head := make([]byte, 0, 512)
	field := func(b []byte) {
		head = binary.BigEndian.AppendUint32(head, uint32(len(b)))
		head = append(head, b...)
	}
	field([]byte(transcriptLabel))
	head = append(head, Version>>8, Version&0xff, uint8(role), t.Mode)
	field(t.Exporter)
	field(t.TokenHash[:])
	field([]byte(t.AssetID))
	field(t.NonceR[:])
	field(t.NonceC[:])
	h := sha256.New()
	for _, b := range [][]byte{t.HelloBody, t.ChallengeBody, t.ProofBody, t.AcceptBody} {
		head = binary.BigEndian.AppendUint32(head, uint32(len(b)))
		h.Write(head)
		h.Write(b)
		head = head[:0]
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

// MAC authenticates the transcript for a role. The role is in the digest, so no
// message's MAC is another's.
func (k *Keys) MAC(role Role, t *Transcript) [MACLen]byte {
	d := t.Digest(role)
	return [MACLen]byte(mac(k.base, d[:]))
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
