package pinned

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// SRKHandle is where the TCG's provisioning guidance keeps the storage root key.
const SRKHandle tpm2.TPMHandle = 0x81000001

// ErrPin means that the TPM's storage key is not the pinned one.
var ErrPin = errors.New("the TPM's storage root key is not the pinned one")

// Algorithm is the kind of a storage root key.
type Algorithm uint8

// The algorithms.
const (
	RSA2048 Algorithm = iota
	ECCP256
)

func (a Algorithm) template() (tpm2.TPMTPublic, error) {
	switch a {
	case RSA2048:
		return tpm2.RSASRKTemplate, nil
	case ECCP256:
		return tpm2.ECCSRKTemplate, nil
	}
	return tpm2.TPMTPublic{}, fmt.Errorf("tpm: unknown storage key algorithm %d", a)
}

// Key is a storage key whose name was checked.
type Key struct {
	bus       *Bus
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	transient bool
}

// Open finds or derives the storage root key and compares its name with pin.
// It fails with [ErrPin] when they differ. The caller closes the Key.
func Open(bus *Bus, alg Algorithm, pin, ownerAuth []byte) (*Key, error) {
	if len(pin) == 0 {
		return nil, errors.New("tpm: no pinned name")
	}
	return open(bus, alg, pin, ownerAuth)
}

// Enrol returns the storage root key that the TPM has for its owner, and keeps
// it at [SRKHandle] when nothing is there, because an RSA key takes long to
// derive. Its [Key.Name] is what later calls pin. This is the one moment at
// which the TPM's word is taken.
func Enrol(bus *Bus, alg Algorithm, ownerAuth []byte) (*Key, error) {
	k, err := open(bus, alg, nil, ownerAuth)
	if err != nil || !k.transient {
		return k, err
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: SRKHandle}).Execute(bus); err == nil {
		return k, nil
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(ownerAuth)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: k.handle, Name: k.name},
		PersistentHandle: SRKHandle,
	}.Execute(bus)
	if err == nil {
		k.Close()
		k.handle, k.transient = SRKHandle, false
	}
	// A TPM without room for it serves as well, only slower.
	return k, nil
}

// Look returns the storage root key as [Enrol] does, and keeps nothing in the
// TPM.
func Look(bus *Bus, alg Algorithm, ownerAuth []byte) (*Key, error) {
	return open(bus, alg, nil, ownerAuth)
}

func open(bus *Bus, alg Algorithm, pin, ownerAuth []byte) (*Key, error) {
	want, err := alg.template()
	if err != nil {
		return nil, err
	}
	if rsp, err := (tpm2.ReadPublic{ObjectHandle: SRKHandle}).Execute(bus); err == nil {
		pub, err := rsp.OutPublic.Contents()
		if err != nil {
			return nil, fmt.Errorf("tpm: storage root key: %w", err)
		}
		if same(pub, &want) {
			k, err := newKey(bus, SRKHandle, pub)
			if err != nil {
				return nil, err
			}
			if pin == nil || k.is(pin) {
				return k, nil
			}
		}
	} else if bus.dead != nil {
		return nil, bus.dead
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(ownerAuth)},
		InPublic:      tpm2.New2B(want),
	}.Execute(bus)
	if err != nil {
		return nil, fmt.Errorf("tpm: derive storage root key: %w", err)
	}
	pub, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("tpm: storage root key: %w", err)
	}
	k, err := newKey(bus, rsp.ObjectHandle, pub)
	if err != nil {
		return nil, err
	}
	k.transient = true
	if !same(pub, &want) {
		k.Close()
		return nil, errors.New("tpm: the storage root key is not of the kind that was asked for")
	}
	if pin != nil && !k.is(pin) {
		k.Close()
		return nil, ErrPin
	}
	return k, nil
}

// newKey computes the name from the public area: the name that the TPM claims
// is not used for anything.
func newKey(bus *Bus, handle tpm2.TPMHandle, pub *tpm2.TPMTPublic) (*Key, error) {
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return nil, fmt.Errorf("tpm: storage root key: %w", err)
	}
	return &Key{bus: bus, handle: handle, name: *name, public: *pub}, nil
}

// same compares two public areas but for the key itself.
func same(a, b *tpm2.TPMTPublic) bool {
	x, y := *a, *b
	x.Unique, y.Unique = tpm2.TPMUPublicID{}, tpm2.TPMUPublicID{}
	if x.Type != y.Type {
		return false
	}
	x.Unique, y.Unique = b.Unique, b.Unique
	return bytes.Equal(tpm2.Marshal(x), tpm2.Marshal(y))
}

func (k *Key) is(pin []byte) bool {
	return subtle.ConstantTimeCompare(k.name.Buffer, pin) == 1
}

// Name returns the TPM name of the key.
func (k *Key) Name() []byte { return bytes.Clone(k.name.Buffer) }

// Parent authorizes the use of the key as a parent by a session from this Key
// or, for commands that carry no secret, by nil.
func (k *Key) Parent(s tpm2.Session) tpm2.AuthHandle {
	if s == nil {
		s = tpm2.PasswordAuth(nil)
	}
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: s}
}

// Close flushes a key that was derived for this conversation.
func (k *Key) Close() {
	if k.transient {
		// What cannot be flushed goes with the next restart of the TPM.
		_, _ = tpm2.FlushContext{FlushHandle: k.handle}.Execute(k.bus)
		k.transient = false
	}
}

// Direction says which of a command's first parameters is encrypted.
type Direction uint8

// The directions.
const (
	In Direction = iota + 1
	Out
)

const nonceSize = 16

func (k *Key) options(d Direction) []tpm2.AuthOption {
	way := tpm2.EncryptInOut
	switch d {
	case In:
		way = tpm2.EncryptIn
	case Out:
		way = tpm2.EncryptOut
	}
	return []tpm2.AuthOption{tpm2.Salted(k.handle, k.public), tpm2.AESEncryption(128, way)}
}

// HMAC returns a session for one command, with an empty authorization value.
func (k *Key) HMAC(d Direction) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, k.options(d)...)
}

// Policy starts a policy session. end flushes it.
func (k *Key) Policy(d Direction) (s tpm2.Session, end func(), err error) {
	s, closer, err := tpm2.PolicySession(k.bus, tpm2.TPMAlgSHA256, nonceSize, k.options(d)...)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: start session: %w", err)
	}
	return s, func() { _ = closer() }, nil
}

// Random fills p from the TPM's generator, encrypted on the bus.
func (k *Key) Random(p []byte) error {
	for len(p) > 0 {
		rsp, err := tpm2.GetRandom{BytesRequested: uint16(min(len(p), 32))}.Execute(k.bus, k.HMAC(Out))
		if err != nil {
			return fmt.Errorf("tpm: random bytes: %w", err)
		}
		n := copy(p, rsp.RandomBytes.Buffer)
		clear(rsp.RandomBytes.Buffer)
		if n == 0 {
			return errors.New("tpm: the random generator gave nothing")
		}
		p = p[n:]
	}
	return nil
}

// EndorsementName returns the name of the endorsement key, which stays the same
// when the owner clears the TPM and is another one in each TPM.
func EndorsementName(bus *Bus) ([]byte, error) {
	var last error
	// The elliptic key is derived in milliseconds; not every TPM has it.
	for _, template := range []tpm2.TPMTPublic{tpm2.ECCEKTemplate, tpm2.RSAEKTemplate} {
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(template),
		}.Execute(bus)
		if err != nil {
			last = err
			continue
		}
		_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(bus)
		pub, err := rsp.OutPublic.Contents()
		if err != nil {
			return nil, fmt.Errorf("tpm: endorsement key: %w", err)
		}
		name, err := tpm2.ObjectName(pub)
		if err != nil {
			return nil, fmt.Errorf("tpm: endorsement key: %w", err)
		}
		return name.Buffer, nil
	}
	return nil, fmt.Errorf("tpm: endorsement key: %w", last)
}
