package tpmwrap

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/internal/secmem"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// Sealed wraps a key as a sealed object. It is safe for concurrent use; one
// operation runs at a time.
type Sealed struct{ *device }

// NewSealed returns a Sealed. It does not touch the TPM.
func NewSealed(cfg Config) (*Sealed, error) {
	d, err := newDevice(cfg)
	if err != nil {
		return nil, err
	}
	return &Sealed{d}, nil
}

func checkSizes(key, binding []byte) error {
	if len(key) != keySize || len(binding) != bindingSize {
		return fmt.Errorf("tpmwrap: key and binding are %d and %d bytes long instead of %d each", len(key), len(binding), keySize)
	}
	return nil
}

// Wrap seals key together with binding, both 32 bytes long, to the policy's boot
// state.
func (s *Sealed) Wrap(ctx context.Context, key, binding []byte) ([]byte, error) {
	if err := checkSizes(key, binding); err != nil {
		return nil, err
	}
	var out []byte
	err := s.with(ctx, func(bus *pinned.Bus) error {
		srk, b, err := s.prepare(bus)
		if err != nil {
			return err
		}
		defer srk.Close()
		authPolicy, err := s.authPolicy(b.state, tpm2.TPMCCUnseal)
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
		rsp, err := tpm2.Create{
			ParentHandle: srk.Parent(srk.HMAC(pinned.In)),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret.Bytes()}),
			}},
			InPublic: tpm2.New2B(sealedPublic(authPolicy)),
		}.Execute(bus)
		if err != nil {
			return fmt.Errorf("tpm: seal: %w", err)
		}
		b.form = formSealed
		b.public, b.private = tpm2.Marshal(rsp.OutPublic), rsp.OutPrivate.Buffer
		out, err = b.marshal()
		return err
	})
	return out, err
}

// sealedPublic is the public area of the sealed object. It has no authorization
// value, so nothing but the policy opens it, and it is exempt from the
// dictionary-attack logic, so nothing locks it.
func sealedPublic(authPolicy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: authPolicy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
	}
}

// prepare opens the storage key and begins a blob with the boot state.
func (d *device) prepare(bus *pinned.Bus) (*pinned.Key, *blob, error) {
	srk, err := d.enrol(bus)
	if err != nil {
		return nil, nil, err
	}
	b, err := d.begin(bus, srk)
	if err != nil {
		srk.Close()
		return nil, nil, err
	}
	return srk, b, nil
}

func (d *device) begin(bus *pinned.Bus, srk *pinned.Key) (*blob, error) {
	p := d.cfg.Policy
	b := &blob{kind: p.kind(), parent: d.cfg.Parent, srk: srk.Name(), state: pcrpolicy.Alternative{Bank: p.Bank}}
	var err error
	if b.ek, err = pinned.EndorsementName(bus); err != nil {
		return nil, err
	}
	switch b.kind {
	case kindLiteral:
		b.state, err = readPCRs(bus, p.Bank, p.PCRs)
	case kindSigned:
		if _, err = d.document(); err == nil {
			err = d.ensureCounter(bus)
		}
	}
	return b, err
}

// Unwrap opens what Wrap made, into key. vouched is whether the TPM's anchor
// holds binding; an anchor that holds another one is an error.
func (s *Sealed) Unwrap(ctx context.Context, wrapped, binding, key []byte) (vouched bool, err error) {
	if err := checkSizes(key, binding); err != nil {
		return false, err
	}
	err = s.with(ctx, func(bus *pinned.Bus) error {
		b, err := s.parse(wrapped, formSealed)
		if err != nil {
			return err
		}
		srk, err := s.pinnedKey(bus, b)
		if err != nil {
			return err
		}
		defer srk.Close()
		session, end, err := srk.Policy(pinned.Out)
		if err != nil {
			return err
		}
		defer end()
		if vouched, err = s.vouch(bus, session, binding); err != nil {
			return err
		}
		state, err := s.satisfy(bus, session, b.kind, b.state, tpm2.TPMCCUnseal)
		if err != nil {
			return err
		}
		data, err := s.unseal(bus, srk, session, b)
		if err != nil {
			return s.explain(bus, state, err)
		}
		defer clear(data)
		if err := open64(data, binding, key); err != nil {
			return err
		}
		s.used = &state
		return nil
	})
	return vouched, err
}

func (d *device) parse(wrapped []byte, forms ...form) (*blob, error) {
	b, err := parseBlob(wrapped)
	if err != nil {
		return nil, err
	}
	for _, f := range forms {
		if b.form != f {
			continue
		}
		if b.kind != d.cfg.Policy.kind() {
			return nil, cause.New(cause.ConfigChanged, errors.New("tpmwrap: the key is wrapped under another kind of policy than is configured"))
		}
		return b, nil
	}
	return nil, cause.New(cause.ConfigChanged, errors.New("tpmwrap: the key is wrapped in another form than is configured"))
}

// vouch compares the anchor with binding. It is read in the same session in
// which the key is unwrapped.
func (d *device) vouch(bus *pinned.Bus, session tpm2.Session, binding []byte) (bool, error) {
	have, ok, err := d.readAnchor(bus, session)
	if err != nil || !ok {
		return false, err
	}
	if subtle.ConstantTimeCompare(have[:], binding) != 1 {
		return false, cause.New(cause.ManifestForged, errors.New("tpmwrap: the TPM vouches for another manifest"))
	}
	return true, nil
}

// explain turns the refusal of an object's use into its reason.
func (d *device) explain(bus *pinned.Bus, state pcrpolicy.Alternative, err error) error {
	if errors.Is(err, tpm2.TPMRCPolicyFail) || errors.Is(err, tpm2.TPMRCPCRChanged) {
		if len(state.PCRs) > 0 {
			return d.pcrChanged(bus, []pcrpolicy.Alternative{state}, err)
		}
		return cause.New(cause.RecordCorrupt, err)
	}
	return err
}

func (s *Sealed) unseal(bus *pinned.Bus, srk *pinned.Key, session tpm2.Session, b *blob) ([]byte, error) {
	obj, err := load(bus, srk, b)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: obj.Handle}.Execute(bus) }()
	obj.Auth = session
	rsp, err := tpm2.Unseal{ItemHandle: obj}.Execute(bus)
	if err != nil {
		return nil, fmt.Errorf("tpm: unseal: %w", err)
	}
	return rsp.OutData.Buffer, nil
}

// load loads the object of a blob. The name is computed from the public area,
// so a TPM that loads something else fails the next command's authorization.
func load(bus *pinned.Bus, srk *pinned.Key, b *blob) (tpm2.AuthHandle, error) {
	var none tpm2.AuthHandle
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](b.public)
	if err != nil {
		return none, cause.New(cause.RecordCorrupt, err)
	}
	pub, err := public.Contents()
	if err != nil {
		return none, cause.New(cause.RecordCorrupt, err)
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return none, cause.New(cause.RecordCorrupt, err)
	}
	rsp, err := tpm2.Load{
		ParentHandle: srk.Parent(nil),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: b.private},
		InPublic:     *public,
	}.Execute(bus)
	var rc tpm2.TPMRC
	if errors.As(err, &rc) && !rc.IsWarning() {
		return none, cause.New(cause.RecordCorrupt, err)
	}
	if err != nil {
		return none, fmt.Errorf("tpm: load: %w", err)
	}
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: *name}, nil
}

// open64 splits what was wrapped and checks the binding.
func open64(data, binding, key []byte) error {
	if len(data) != keySize+bindingSize {
		return cause.New(cause.RecordCorrupt, fmt.Errorf("tpmwrap: %d bytes were wrapped instead of %d", len(data), keySize+bindingSize))
	}
	if subtle.ConstantTimeCompare(data[keySize:], binding) != 1 {
		return cause.New(cause.ManifestForged, errors.New("tpmwrap: the key was wrapped together with another manifest"))
	}
	copy(key, data)
	return nil
}
