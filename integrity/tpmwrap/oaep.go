package tpmwrap

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
)

// OAEPConfig is what NewOAEP needs beside Config.
type OAEPConfig struct {
	Config
	// Handle is the persistent handle of an RSA-2048 decryption key that the
	// product has already. It has an empty authorization value and obeys no
	// Policy of ours. Zero means to make a key under the storage root key, which
	// obeys Policy.
	Handle uint32
	// Name is the TPM name that the key at Handle must have. Without it the name
	// of the first wrapping is pinned.
	Name []byte
	// Label is the OAEP label, without its closing zero byte. SHA-256 is the
	// hash for both OAEP and its mask.
	Label string
	// Existing is a ciphertext of 32 bytes that the product has already.
	// GenerateKey then returns what is in it instead of a new key.
	Existing []byte
}

// OAEP wraps a key by RSA-OAEP to a key that never leaves the TPM. Anybody can
// make such a ciphertext; that the right one is opened follows from the anchor
// and from the identifiers in the manifest. It is safe for concurrent use; one
// operation runs at a time.
type OAEP struct {
	*device
	oaep OAEPConfig
}

// NewOAEP returns an OAEP. It does not touch the TPM.
func NewOAEP(cfg OAEPConfig) (*OAEP, error) {
	d, err := newDevice(cfg.Config)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Handle != 0 && cfg.Policy.kind() != kindNone:
		err = errors.New("tpmwrap: config: Policy does not apply to an existing key at Handle")
	case cfg.Handle != 0 && cfg.Handle>>24 != 0x81:
		err = fmt.Errorf("tpmwrap: config: Handle %#x is not persistent", cfg.Handle)
	case len(cfg.Existing) > 0 && cfg.Handle == 0:
		err = errors.New("tpmwrap: config: Existing needs the Handle of its key")
	case len(cfg.Label) > maxLabel:
		err = fmt.Errorf("tpmwrap: config: Label is longer than %d bytes", maxLabel)
	}
	if err != nil {
		return nil, err
	}
	return &OAEP{device: d, oaep: cfg}, nil
}

// label is the OAEP label with the zero byte that the TPM asks for (TPM 2.0
// Library, Part 1, B.4).
func (o *OAEP) label() []byte {
	if o.oaep.Label == "" {
		return nil
	}
	return append([]byte(o.oaep.Label), 0)
}

func (o *OAEP) scheme() tpm2.TPMTRSADecrypt {
	return tpm2.TPMTRSADecrypt{
		Scheme:  tpm2.TPMAlgOAEP,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256}),
	}
}

// GenerateKey fills key from the TPM's generator, or from Existing.
func (o *OAEP) GenerateKey(ctx context.Context, key []byte) error {
	if len(o.oaep.Existing) == 0 {
		return o.device.GenerateKey(ctx, key)
	}
	return o.with(ctx, func(bus *pinned.Bus) error {
		srk, err := o.enrol(bus)
		if err != nil {
			return err
		}
		defer srk.Close()
		obj, _, err := o.existing(bus, o.oaep.Name)
		if err != nil {
			return err
		}
		obj.Auth = srk.HMAC(pinned.Out)
		data, err := o.decrypt(bus, obj, o.oaep.Existing)
		if err != nil {
			return err
		}
		defer clear(data)
		if len(data) != keySize {
			return fmt.Errorf("tpmwrap: the existing ciphertext holds %d bytes instead of %d", len(data), keySize)
		}
		copy(key, data)
		return nil
	})
}

// Wrap encrypts key together with binding to the TPM's key.
func (o *OAEP) Wrap(ctx context.Context, key, binding []byte) ([]byte, error) {
	if err := checkSizes(key, binding); err != nil {
		return nil, err
	}
	var out []byte
	err := o.with(ctx, func(bus *pinned.Bus) error {
		srk, b, err := o.prepare(bus)
		if err != nil {
			return err
		}
		defer srk.Close()
		pub, err := o.target(bus, srk, b)
		if err != nil {
			return err
		}
		secret, err := secmem.New(keySize + bindingSize)
		if err != nil {
			return err
		}
		defer secret.Destroy()
		copy(secret.Bytes(), key)
		copy(secret.Bytes()[keySize:], binding)
		if b.ciphertext, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, secret.Bytes(), o.label()); err != nil {
			return fmt.Errorf("tpmwrap: encrypt: %w", err)
		}
		out, err = b.marshal()
		return err
	})
	return out, err
}

// target finds or makes the decryption key and notes it in the blob.
func (o *OAEP) target(bus *pinned.Bus, srk *pinned.Key, b *blob) (*rsa.PublicKey, error) {
	if o.oaep.Handle != 0 {
		obj, pub, err := o.existing(bus, o.oaep.Name)
		if err != nil {
			return nil, err
		}
		b.form, b.handle, b.public = formHandle, o.oaep.Handle, obj.Name.Buffer
		return rsaPublic(pub)
	}
	authPolicy, err := o.authPolicy(b.state, tpm2.TPMCCRSADecrypt)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Create{
		// The session authenticates the public key in the answer.
		ParentHandle: srk.Parent(srk.HMAC(pinned.In)),
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true, Decrypt: true},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: authPolicy},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
		}),
	}.Execute(bus)
	if err != nil {
		return nil, fmt.Errorf("tpm: create decryption key: %w", err)
	}
	b.form, b.public, b.private = formOAEP, tpm2.Marshal(rsp.OutPublic), rsp.OutPrivate.Buffer
	pub, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("tpm: decryption key: %w", err)
	}
	return rsaPublic(pub)
}

func rsaPublic(pub *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parms, err := pub.Parameters.RSADetail()
	if err != nil {
		return nil, fmt.Errorf("tpm: decryption key: %w", err)
	}
	unique, err := pub.Unique.RSA()
	if err != nil {
		return nil, fmt.Errorf("tpm: decryption key: %w", err)
	}
	if parms.KeyBits != 2048 || !pub.ObjectAttributes.Decrypt {
		return nil, errors.New("tpm: the key is not an RSA-2048 decryption key")
	}
	return tpm2.RSAPub(parms, unique)
}

// existing reads the key at Handle and checks its name.
func (o *OAEP) existing(bus *pinned.Bus, pin []byte) (tpm2.AuthHandle, *tpm2.TPMTPublic, error) {
	var none tpm2.AuthHandle
	handle := tpm2.TPMHandle(o.oaep.Handle)
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(bus)
	if err != nil {
		return none, nil, fmt.Errorf("tpm: decryption key at %#x: %w", o.oaep.Handle, err)
	}
	pub, err := rsp.OutPublic.Contents()
	if err != nil {
		return none, nil, fmt.Errorf("tpm: decryption key at %#x: %w", o.oaep.Handle, err)
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return none, nil, fmt.Errorf("tpm: decryption key at %#x: %w", o.oaep.Handle, err)
	}
	if len(pin) > 0 && subtle.ConstantTimeCompare(name.Buffer, pin) != 1 {
		return none, nil, cause.New(cause.RecordCorrupt, fmt.Errorf("tpmwrap: the key at %#x is not the pinned one", o.oaep.Handle))
	}
	return tpm2.AuthHandle{Handle: handle, Name: *name}, pub, nil
}

// Unwrap opens what Wrap made, into key. vouched is whether the TPM's anchor
// holds binding; an anchor that holds another one is an error.
func (o *OAEP) Unwrap(ctx context.Context, wrapped, binding, key []byte) (vouched bool, err error) {
	if err := checkSizes(key, binding); err != nil {
		return false, err
	}
	err = o.with(ctx, func(bus *pinned.Bus) error {
		want := formOAEP
		if o.oaep.Handle != 0 {
			want = formHandle
		}
		b, err := o.parse(wrapped, want)
		if err != nil {
			return err
		}
		srk, err := o.pinnedKey(bus, b)
		if err != nil {
			return err
		}
		defer srk.Close()
		session, end, err := srk.Policy(pinned.Out)
		if err != nil {
			return err
		}
		defer end()
		if vouched, err = o.vouch(bus, session, binding); err != nil {
			return err
		}
		data, err := o.open(bus, srk, session, b)
		if err != nil {
			return err
		}
		defer clear(data)
		return open64(data, binding, key)
	})
	return vouched, err
}

func (o *OAEP) open(bus *pinned.Bus, srk *pinned.Key, session tpm2.Session, b *blob) ([]byte, error) {
	if b.form == formHandle {
		obj, _, err := o.existing(bus, b.public)
		if err != nil {
			return nil, err
		}
		obj.Auth = srk.HMAC(pinned.Out)
		return o.decrypt(bus, obj, b.ciphertext)
	}
	state, err := o.satisfy(bus, session, b.kind, b.state, tpm2.TPMCCRSADecrypt)
	if err != nil {
		return nil, err
	}
	obj, err := load(bus, srk, b)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: obj.Handle}.Execute(bus) }()
	obj.Auth = session
	data, err := o.decrypt(bus, obj, b.ciphertext)
	if err != nil {
		return nil, o.explain(bus, state, err)
	}
	o.used = &state
	return data, nil
}

func (o *OAEP) decrypt(bus *pinned.Bus, obj tpm2.AuthHandle, ciphertext []byte) ([]byte, error) {
	rsp, err := tpm2.RSADecrypt{
		KeyHandle:  obj,
		CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
		InScheme:   o.scheme(),
		Label:      tpm2.TPM2BData{Buffer: o.label()},
	}.Execute(bus)
	// What a TPM answers to a wrong ciphertext differs between makers.
	if errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCFailure) || errors.Is(err, tpm2.TPMRCSize) {
		return nil, cause.New(cause.RecordCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: decrypt: %w", err)
	}
	return rsp.Message.Buffer, nil
}
