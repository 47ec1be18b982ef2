package tpmwrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// The anchor is an NV index that holds the digest of the manifest. Only the
// allowed boot state can write it. It tells a system that was set up from one
// that was not, whatever is on the disk.

func isNoIndex(err error) bool { return errors.Is(err, tpm2.TPMRCHandle) }

func (d *device) anchorPublic(authPolicy []byte) tpm2.TPMSNVPublic {
	pub := tpm2.TPMSNVPublic{
		NVIndex:    tpm2.TPMHandle(d.cfg.AnchorIndex),
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{AuthRead: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
		DataSize:   bindingSize,
	}
	if d.cfg.Policy.kind() == kindNone {
		pub.Attributes.AuthWrite = true
	} else {
		pub.Attributes.PolicyWrite = true
		pub.AuthPolicy = tpm2.TPM2BDigest{Buffer: authPolicy}
	}
	return pub
}

// ours reports whether an index is what this configuration would define. The
// policy of a literal index stays that of the day on which it was defined.
func (d *device) ours(pub *tpm2.TPMSNVPublic) bool {
	var authPolicy []byte
	switch d.cfg.Policy.kind() {
	case kindLiteral:
		authPolicy = pub.AuthPolicy.Buffer
		if len(authPolicy) == 0 {
			return false
		}
	case kindSigned:
		var err error
		if authPolicy, err = d.authPolicy(pcrpolicy.Alternative{}, 0); err != nil {
			return false
		}
	}
	want := d.anchorPublic(authPolicy)
	want.Attributes.Written = pub.Attributes.Written
	return bytes.Equal(tpm2.Marshal(want), tpm2.Marshal(*pub))
}

func readNVPublic(bus *pinned.Bus, index uint32) (*tpm2.TPMSNVPublic, tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(bus)
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("tpm: NV index %#x: %w", index, err)
	}
	name, err := tpm2.NVName(pub)
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("tpm: NV index %#x: %w", index, err)
	}
	return pub, *name, nil
}

// readAnchor reads the anchor; ok is false when there is none, or one that was
// never written. The session authenticates the answer.
func (d *device) readAnchor(bus *pinned.Bus, session tpm2.Session) (binding [bindingSize]byte, ok bool, err error) {
	pub, name, err := readNVPublic(bus, d.cfg.AnchorIndex)
	if isNoIndex(err) || (err == nil && !pub.Attributes.Written) {
		return binding, false, nil
	}
	if err != nil {
		return binding, false, fmt.Errorf("tpm: anchor: %w", err)
	}
	if !d.ours(pub) {
		return binding, false, cause.New(cause.ManifestForged, fmt.Errorf("tpmwrap: NV index %#x is not defined as this configuration defines it", d.cfg.AnchorIndex))
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: pub.NVIndex, Name: name, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: pub.NVIndex, Name: name},
		Size:       bindingSize,
	}.Execute(bus, session)
	if err != nil {
		return binding, false, fmt.Errorf("tpm: read anchor: %w", err)
	}
	if copy(binding[:], rsp.Data.Buffer) != bindingSize {
		return binding, false, errors.New("tpm: anchor is too short")
	}
	return binding, true, nil
}

// Committed returns what Commit stored; ok is false when it was never called on
// this TPM, or the TPM was cleared since.
func (d *device) Committed(ctx context.Context) (binding [32]byte, ok bool, err error) {
	err = d.with(ctx, func(bus *pinned.Bus) error {
		key, err := d.known(bus)
		if err != nil {
			return err
		}
		defer key.Close()
		binding, ok, err = d.readAnchor(bus, key.HMAC(pinned.Out))
		return err
	})
	return binding, ok, err
}

func (d *device) known(bus *pinned.Bus) (*pinned.Key, error) {
	if d.pin != nil {
		return pinned.Open(bus, d.cfg.parent(), d.pin, d.cfg.OwnerAuth)
	}
	return d.enrolTransient(bus)
}

// Commit stores the digest of the manifest in the TPM, once for the life of the
// system: the same digest again is no error, another one is refused.
func (d *device) Commit(ctx context.Context, binding [32]byte) error {
	return d.with(ctx, func(bus *pinned.Bus) error {
		key, err := d.enrol(bus)
		if err != nil {
			return err
		}
		defer key.Close()
		have, ok, err := d.readAnchor(bus, key.HMAC(pinned.Out))
		if err != nil {
			return err
		}
		if ok {
			if have == binding {
				return nil
			}
			return cause.New(cause.ManifestForged, errors.New("tpmwrap: the TPM vouches for another manifest already"))
		}
		return d.writeAnchor(bus, key, binding)
	})
}

func (d *device) writeAnchor(bus *pinned.Bus, key *pinned.Key, binding [bindingSize]byte) error {
	k := d.cfg.Policy.kind()
	state := pcrpolicy.Alternative{Bank: d.cfg.Policy.Bank}
	var err error
	if k == kindLiteral {
		if state, err = readPCRs(bus, d.cfg.Policy.Bank, d.cfg.Policy.PCRs); err != nil {
			return err
		}
	}
	name, err := d.defineAnchor(bus, key, state)
	if err != nil {
		return err
	}
	session := key.HMAC(pinned.In)
	if k != kindNone {
		var end func()
		if session, end, err = key.Policy(pinned.In); err != nil {
			return err
		}
		defer end()
		if _, err := d.satisfy(bus, session, k, state, 0); err != nil {
			return err
		}
	}
	index := tpm2.TPMHandle(d.cfg.AnchorIndex)
	_, err = tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: index, Name: name, Auth: session},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: binding[:]},
	}.Execute(bus)
	if err != nil {
		return fmt.Errorf("tpm: write anchor: %w", err)
	}
	return nil
}

// defineAnchor makes the index. One that an interrupted call left unwritten is
// made anew, since the boot state may have changed since.
func (d *device) defineAnchor(bus *pinned.Bus, key *pinned.Key, state pcrpolicy.Alternative) (tpm2.TPM2BName, error) {
	var none tpm2.TPM2BName
	_, name, err := readNVPublic(bus, d.cfg.AnchorIndex)
	if err == nil {
		_, err = tpm2.NVUndefineSpace{
			AuthHandle: d.owner(),
			NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(d.cfg.AnchorIndex), Name: name},
		}.Execute(bus)
	}
	if err != nil && !isNoIndex(err) {
		return none, fmt.Errorf("tpm: anchor: %w", err)
	}
	authPolicy, err := d.authPolicy(state, 0)
	if err != nil {
		return none, err
	}
	pub := d.anchorPublic(authPolicy)
	if _, err := (tpm2.NVDefineSpace{AuthHandle: d.owner(), PublicInfo: tpm2.New2B(pub)}).Execute(bus, key.HMAC(pinned.In)); err != nil {
		return none, fmt.Errorf("tpm: define anchor: %w", err)
	}
	n, err := tpm2.NVName(&pub)
	if err != nil {
		return none, fmt.Errorf("tpm: anchor: %w", err)
	}
	return *n, nil
}

func (d *device) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(d.cfg.OwnerAuth)}
}
