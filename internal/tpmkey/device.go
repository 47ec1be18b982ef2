package tpmkey

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/tpmretry"
)

// SRKHandle is where the TCG's provisioning guidance keeps the storage root key.
const SRKHandle tpm2.TPMHandle = 0x81000001

var (
	// ErrClosed is returned by operations on a closed [Key].
	ErrClosed = errors.New("tpmkey: key is closed")
	// ErrWrongTPM means that the TPM does not load the key: another TPM made
	// it, or the TPM was cleared since, or the file was changed.
	ErrWrongTPM = errors.New("tpmkey: this TPM does not load the key (made by another TPM, or the TPM was cleared)")
	// ErrUnsupported means that the TPM or this package has no such algorithm,
	// key size, curve or padding.
	ErrUnsupported = errors.New("tpmkey: not supported")
	// ErrSRK means that the storage root key is not the pinned one or cannot be
	// used.
	ErrSRK = errors.New("tpmkey: storage root key")
)

// Config is what a [Device] is made of.
type Config struct {
	// TPM is required. Its Send is called by one goroutine at a time.
	TPM transport.TPM
	// SRKName, when set, is the TPM name (hash algorithm and digest of the
	// public area) that the parent key must have. Without it the public key
	// that the TPM reports is believed, and an active interposer on the bus can
	// read what passes.
	SRKName []byte
}

// Device serialises the use of one TPM. It is safe for concurrent use.
type Device struct {
	cfg Config
	mu  sync.Mutex
}

// New returns a Device. It sends nothing to the TPM.
func New(cfg Config) (*Device, error) {
	if cfg.TPM == nil {
		return nil, errors.New("tpmkey: Config.TPM is nil")
	}
	cfg.TPM = tpmretry.TPM{TPM: cfg.TPM}
	return &Device{cfg: cfg}, nil
}

// Parent is a storage key that is loaded for the length of one operation.
type Parent struct {
	// TPM is where the parent is loaded.
	TPM transport.TPM
	// Key names the loaded parent.
	Key tpm2.NamedHandle
	// ID is the handle that finds this parent again: [SRKHandle], another
	// persistent handle, or [tpm2.TPMRHOwner] for the owner's primary key.
	ID tpm2.TPMHandle

	public tpm2.TPMTPublic
}

// Direction says which of a command's first parameters are encrypted.
type Direction uint8

// The directions. A command whose first parameter is not a sized buffer, or
// whose response's is not, cannot be encrypted in that direction.
const (
	EncryptIn Direction = iota + 1
	EncryptOut
	EncryptInOut
)

// Session returns an HMAC session for one command, with an empty authorization
// value, salted to the parent and encrypting parameters.
func (p *Parent) Session(dir Direction) tpm2.Session {
	enc := tpm2.EncryptInOut
	switch dir {
	case EncryptIn:
		enc = tpm2.EncryptIn
	case EncryptOut:
		enc = tpm2.EncryptOut
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
		tpm2.AESEncryption(symBits, enc), tpm2.Salted(p.Key.Handle, p.public))
}

// Auth returns the parent as a handle that authorizes a command.
func (p *Parent) Auth(dir Direction) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: p.Key.Handle, Name: p.Key.Name, Auth: p.Session(dir)}
}

// WithSRK runs fn with the parent that new keys get: the key at [SRKHandle] when
// there is one, else the owner's primary key. The parent is gone when WithSRK
// returns. Other operations of the Device wait meanwhile, so fn must not call
// methods of the Device.
func (d *Device) WithSRK(fn func(p *Parent) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, done, err := d.persistent(SRKHandle)
	if errors.Is(err, errNoHandle) {
		p, done, err = d.primary()
	}
	if err != nil {
		return err
	}
	defer done()
	return fn(p)
}

// withParent is WithSRK for the parent that a key file names.
func (d *Device) withParent(id tpm2.TPMHandle, fn func(p *Parent) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	get := func() (*Parent, func(), error) { return d.persistent(id) }
	if id == tpm2.TPMRHOwner {
		get = d.primary
	}
	p, done, err := get()
	if errors.Is(err, errNoHandle) {
		return fmt.Errorf("%w: no key at handle %#x, which is the parent of this key", ErrWrongTPM, uint32(id))
	}
	if err != nil {
		return err
	}
	defer done()
	return fn(p)
}

var errNoHandle = errors.New("tpmkey: no key at this handle")

func (d *Device) persistent(handle tpm2.TPMHandle) (*Parent, func(), error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(d.cfg.TPM)
	switch {
	case errors.Is(err, tpm2.TPMRCHandle), errors.Is(err, tpm2.TPMRCValue):
		return nil, nil, errNoHandle
	case err != nil:
		return nil, nil, fmt.Errorf("%w: read public area at %#x: %w", ErrSRK, uint32(handle), err)
	}
	p, err := d.parent(handle, handle, rsp.OutPublic)
	if err != nil {
		return nil, nil, err
	}
	return p, func() {}, nil
}

func (d *Device) primary() (*Parent, func(), error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(ownerPrimary()),
	}.Execute(d.cfg.TPM)
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return nil, nil, fmt.Errorf("%w: the owner hierarchy has a password; make a storage key persistent at %#x first: %w", ErrSRK, uint32(SRKHandle), err)
	case err != nil:
		return nil, nil, fmt.Errorf("%w: create primary key: %w", ErrSRK, err)
	}
	flush := func() {
		// A flush fails only when the TPM is gone, and then the slot is too.
		_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(d.cfg.TPM)
	}
	p, err := d.parent(rsp.ObjectHandle, tpm2.TPMRHOwner, rsp.OutPublic)
	if err != nil {
		flush()
		return nil, nil, err
	}
	return p, flush, nil
}

func (d *Device) parent(handle, id tpm2.TPMHandle, out tpm2.TPM2BPublic) (*Parent, error) {
	public, err := out.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: public area: %w", ErrSRK, err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, fmt.Errorf("%w: name: %w", ErrSRK, err)
	}
	if d.cfg.SRKName != nil && !bytes.Equal(d.cfg.SRKName, name.Buffer) {
		return nil, fmt.Errorf("%w: name is %x, pinned is %x", ErrSRK, name.Buffer, d.cfg.SRKName)
	}
	if a := public.ObjectAttributes; !a.Restricted || !a.Decrypt || a.SignEncrypt {
		return nil, fmt.Errorf("%w: the key at %#x is not a storage key", ErrSRK, uint32(handle))
	}
	return &Parent{TPM: d.cfg.TPM, Key: tpm2.NamedHandle{Handle: handle, Name: *name}, ID: id, public: *public}, nil
}

// ownerPrimary is the template of draft-bottomley-tpm2-keys, section 3.1.8.
func ownerPrimary() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}
