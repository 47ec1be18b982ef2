package tpmwrap

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// device is what the wrappers have in common.
type device struct {
	cfg Config

	mu sync.Mutex
	// pin is the storage key's name, once an operation has learnt it from a
	// blob or at enrolment. used is the boot state that the last unwrapping
	// found to hold. Both are guarded by mu.
	pin  []byte
	used *pcrpolicy.Alternative
}

func newDevice(cfg Config) (*device, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &device{cfg: cfg}, nil
}

// with runs one operation on the TPM, one at a time.
func (d *device) with(ctx context.Context, f func(*pinned.Bus) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	tpm, err := d.cfg.Open(ctx)
	if err != nil {
		return cause.New(cause.NoTPM, err)
	}
	bus := pinned.NewBus(ctx, tpm)
	defer func() {
		bus.Wipe()
		if err := tpm.Close(); err != nil {
			d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "TPM did not close", slog.Any("error", err))
		}
	}()
	return classify(f(bus))
}

// classify gives a code to errors of the TPM that have none yet.
func classify(err error) error {
	var coded *cause.Error
	switch {
	case err == nil, errors.As(err, &coded), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, tpm2.TPMRCLockout):
		return cause.New(cause.Lockout, err)
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged):
		return cause.New(cause.PCRChanged, err)
	}
	return cause.New(cause.TPMFailed, err)
}

// pinnedKey opens the storage key that a blob names. When the TPM has another
// one, it tells a cleared TPM from a foreign one.
func (d *device) pinnedKey(bus *pinned.Bus, b *blob) (*pinned.Key, error) {
	alg := pinned.RSA2048
	if b.parent == ParentECCP256 {
		alg = pinned.ECCP256
	}
	key, err := pinned.Open(bus, alg, b.srk, d.cfg.OwnerAuth)
	if !errors.Is(err, pinned.ErrPin) {
		if err == nil {
			d.pin = b.srk
		}
		return key, err
	}
	ek, ekErr := pinned.EndorsementName(bus)
	switch {
	case ekErr != nil:
		return nil, errors.Join(err, ekErr)
	case subtle.ConstantTimeCompare(ek, b.ek) == 1:
		return nil, cause.New(cause.TPMCleared, err)
	}
	return nil, cause.New(cause.ForeignTPM, err)
}

// GenerateKey fills key, which is 32 bytes long, from the TPM's generator. The
// bytes are encrypted on the bus.
func (d *device) GenerateKey(ctx context.Context, key []byte) error {
	if len(key) != keySize {
		return fmt.Errorf("tpmwrap: key has %d bytes instead of %d", len(key), keySize)
	}
	return d.with(ctx, func(bus *pinned.Bus) error {
		srk, err := d.enrol(bus)
		if err != nil {
			return err
		}
		defer srk.Close()
		return srk.Random(key)
	})
}

// enrol opens the storage key for a first wrapping. A name that was learnt
// before is pinned from then on.
func (d *device) enrol(bus *pinned.Bus) (*pinned.Key, error) {
	if d.pin != nil {
		return pinned.Open(bus, d.cfg.parent(), d.pin, d.cfg.OwnerAuth)
	}
	key, err := pinned.Enrol(bus, d.cfg.parent(), d.cfg.OwnerAuth)
	if err != nil {
		return nil, err
	}
	d.pin = key.Name()
	return key, nil
}

// Cap extends a register of the policy, so that the TPM does not give the key
// out again until the machine restarts. It does nothing for a policy without
// PCRs, or with Policy.NoCap.
//
// Every state of a signed policy that holds is capped, not only the one that
// opened the key: another one may ask for other registers or another bank.
func (d *device) Cap(ctx context.Context) error {
	p := d.cfg.Policy
	if p.NoCap || p.kind() == kindNone {
		return nil
	}
	return d.with(ctx, func(bus *pinned.Bus) error {
		states, err := d.states(bus)
		if err != nil {
			return err
		}
		// A cap may be what another state asks for, hence once more for each.
		for range len(states) + 1 {
			capped, err := d.capMatching(bus, states)
			if err != nil || !capped {
				return err
			}
		}
		return errors.New("tpmwrap: the policy allows the boot state still after it was capped")
	})
}

// states are those in which the key may be given out.
func (d *device) states(bus *pinned.Bus) ([]pcrpolicy.Alternative, error) {
	var states []pcrpolicy.Alternative
	if d.used != nil {
		states = append(states, *d.used)
	}
	if d.cfg.Policy.kind() == kindSigned {
		doc, err := d.document()
		if err != nil {
			return nil, err
		}
		return append(states, doc.Alternatives...), nil
	}
	if d.used != nil {
		return states, nil
	}
	// Nothing was unwrapped by this process, so the present state has to do.
	now, err := readPCRs(bus, d.cfg.Policy.Bank, d.cfg.Policy.PCRs)
	return append(states, now), err
}

// capMatching extends a register of every state that holds, and reports whether
// there was one.
func (d *device) capMatching(bus *pinned.Bus, states []pcrpolicy.Alternative) (bool, error) {
	capped := false
	for _, a := range states {
		now, err := readPCRs(bus, a.Bank, indexes(a))
		if err != nil {
			return capped, fmt.Errorf("tpmwrap: cap: %w", err)
		}
		if !bytes.Equal(now.Composite(), a.Composite()) {
			continue
		}
		pcr, err := d.cfg.Policy.capOf(indexes(a))
		if err != nil {
			return capped, fmt.Errorf("tpmwrap: cap: %w", err)
		}
		if err := extendCap(bus, a.Bank, pcr); err != nil {
			return capped, err
		}
		capped = true
	}
	return capped, nil
}

// Describe names the TPM for a status page: manufacturer and versions.
func (d *device) Describe(ctx context.Context) (string, error) {
	var text string
	err := d.with(ctx, func(bus *pinned.Bus) error {
		props, err := properties(bus)
		if err != nil {
			return err
		}
		text = fmt.Sprintf("%s, firmware %d.%d, TPM 2.0 revision %d.%02d",
			bytes.TrimRight(props.manufacturer[:], "\x00 "), props.firmware>>16, props.firmware&0xffff, props.revision/100, props.revision%100)
		return nil
	})
	return text, err
}

type tpmProperties struct {
	manufacturer       [4]byte
	firmware, revision uint32
	family             [4]byte
}

func properties(bus *pinned.Bus) (tpmProperties, error) {
	var out tpmProperties
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTFamilyIndicator), PropertyCount: 32,
	}.Execute(bus)
	if err != nil {
		return out, fmt.Errorf("tpm: read properties: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return out, fmt.Errorf("tpm: read properties: %w", err)
	}
	four := func(v uint32) [4]byte { return [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }
	for _, p := range list.TPMProperty {
		switch p.Property {
		case tpm2.TPMPTFamilyIndicator:
			out.family = four(p.Value)
		case tpm2.TPMPTManufacturer:
			out.manufacturer = four(p.Value)
		case tpm2.TPMPTFirmwareVersion1:
			out.firmware = p.Value
		case tpm2.TPMPTRevision:
			out.revision = p.Value
		}
	}
	return out, nil
}

// Check reports every reason why this TPM cannot protect a key under the
// configured policy. Nil means that it can. An error with a method Warning that
// returns true is advice.
func (d *device) Check(ctx context.Context) []error {
	var found []error
	err := d.with(ctx, func(bus *pinned.Bus) error {
		props, err := properties(bus)
		if err != nil {
			return err
		}
		if string(props.family[:]) != "2.0\x00" {
			found = append(found, fmt.Errorf("tpmwrap: the TPM is of family %q, not 2.0", bytes.TrimRight(props.family[:], "\x00")))
		}
		srk, err := d.enrolTransient(bus)
		if err != nil {
			found = append(found, err)
		} else {
			var probe [8]byte
			if err := srk.Random(probe[:]); err != nil {
				found = append(found, fmt.Errorf("tpmwrap: encrypted session: %w", err))
			}
			srk.Close()
		}
		found = append(found, d.checkPolicy(bus)...)
		return nil
	})
	if err != nil {
		found = append(found, err)
	}
	return found
}

// enrolTransient is enrol without keeping anything in the TPM.
func (d *device) enrolTransient(bus *pinned.Bus) (*pinned.Key, error) {
	key, err := pinned.Look(bus, d.cfg.parent(), d.cfg.OwnerAuth)
	if err != nil {
		return nil, fmt.Errorf("tpmwrap: storage root key: %w", err)
	}
	return key, nil
}

func (d *device) checkPolicy(bus *pinned.Bus) []error {
	p := d.cfg.Policy
	switch p.kind() {
	case kindLiteral:
		state, err := readPCRs(bus, p.Bank, p.PCRs)
		if err != nil {
			return []error{err}
		}
		if unused(state) {
			return []error{warning{fmt.Errorf("tpmwrap: no register of the policy was ever extended: does the firmware measure anything into the %s bank?", p.Bank)}}
		}
	case kindSigned:
		doc, err := d.document()
		if err != nil {
			return []error{err}
		}
		for _, a := range doc.Alternatives {
			now, err := readPCRs(bus, a.Bank, indexes(a))
			if err != nil {
				return []error{err}
			}
			if bytes.Equal(now.Composite(), a.Composite()) {
				return nil
			}
		}
		return []error{d.pcrChanged(bus, doc.Alternatives, nil)}
	}
	return nil
}

// unused reports whether all registers have a value that no extension gives.
func unused(state pcrpolicy.Alternative) bool {
	for _, p := range state.PCRs {
		for _, b := range p.Value {
			if b != p.Value[0] || (b != 0 && b != 0xff) {
				return false
			}
		}
	}
	return true
}

// warning is a finding that does not stand in the way.
type warning struct{ error }

// Warning tells a caller of Check so.
func (warning) Warning() bool { return true }
