package tpmwrap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// ensureCounter makes the counter of a signed policy, if it is not there.
func (d *device) ensureCounter(bus *pinned.Bus) error {
	index := d.cfg.Policy.CounterIndex
	pub, name, err := readNVPublic(bus, index)
	if isNoIndex(err) {
		def := pcrpolicy.CounterPublic(index)
		def.Attributes.Written = false
		if _, err := (tpm2.NVDefineSpace{AuthHandle: d.owner(), PublicInfo: tpm2.New2B(def)}).Execute(bus); err != nil {
			return fmt.Errorf("tpm: define counter: %w", err)
		}
		pub, name, err = readNVPublic(bus, index)
	}
	if err != nil {
		return fmt.Errorf("tpm: counter: %w", err)
	}
	want := pcrpolicy.CounterPublic(index)
	want.Attributes.Written = pub.Attributes.Written
	if !bytes.Equal(tpm2.Marshal(want), tpm2.Marshal(*pub)) {
		return fmt.Errorf("tpm: NV index %#x is in use for something else than the policy counter", index)
	}
	if pub.Attributes.Written {
		return nil
	}
	return d.increment(bus, name)
}

func (d *device) increment(bus *pinned.Bus, name tpm2.TPM2BName) error {
	_, err := tpm2.NVIncrement{
		AuthHandle: d.owner(),
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(d.cfg.Policy.CounterIndex), Name: name},
	}.Execute(bus)
	if err != nil {
		return fmt.Errorf("tpm: increment counter: %w", err)
	}
	return nil
}

// counter reads the counter, or 0 where there is none.
func (d *device) counter(bus *pinned.Bus, key *pinned.Key) (uint64, tpm2.TPM2BName, error) {
	pub, name, err := readNVPublic(bus, d.cfg.Policy.CounterIndex)
	if isNoIndex(err) || (err == nil && !pub.Attributes.Written) {
		return 0, name, nil
	}
	if err != nil {
		return 0, name, fmt.Errorf("tpm: counter: %w", err)
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: pub.NVIndex, Name: name, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: pub.NVIndex, Name: name},
		Size:       8,
	}.Execute(bus, key.HMAC(pinned.Out))
	if err != nil {
		return 0, name, fmt.Errorf("tpm: read counter: %w", err)
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, name, errors.New("tpm: counter is not 8 bytes long")
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), name, nil
}

// ErrNotProven is returned by Revoke while nothing says that the boot state that
// is running would stay allowed: this process did not unwrap the key, because it
// was started again after that, or unwrapped it in an older state.
var ErrNotProven = errors.New("tpmwrap: the boot state that is running is not known to stay allowed, so nothing was revoked")

// Revoke brings the counter up to number, so that the TPM refuses every signed
// policy with a lower one, for good. It refuses to go beyond the highest number
// of the installed policy, which would lock this system out, and returns
// [ErrNotProven] for one beyond the number of the boot state in which this process
// unwrapped the key. It moves at most 4096 steps in one call. Revoking what is
// revoked already is no error.
func (d *device) Revoke(ctx context.Context, number uint64) error {
	if d.cfg.Policy.kind() != kindSigned {
		return errors.New("tpmwrap: only signed policies can be revoked")
	}
	doc, err := d.document()
	if err != nil {
		return err
	}
	highest := highestNumber(doc)
	if number > highest {
		return fmt.Errorf("tpmwrap: revoking all policies below %d would revoke the installed one, which has number %d", number, highest)
	}
	// This is no failure of the TPM.
	var unproven error
	err = d.with(ctx, func(bus *pinned.Bus) error {
		key, err := d.known(bus)
		if err != nil {
			return err
		}
		defer key.Close()
		if err := d.ensureCounter(bus); err != nil {
			return err
		}
		now, name, err := d.counter(bus, key)
		if err != nil {
			return err
		}
		if now < number && (d.used == nil || d.used.Number < number) {
			unproven = fmt.Errorf("%w: the counter stays at %d instead of %d", ErrNotProven, now, number)
			return nil
		}
		if now < number && number-now > maxIncrements {
			return fmt.Errorf("tpmwrap: the counter is at %d; %d is more than %d steps away", now, number, maxIncrements)
		}
		for ; now < number; now++ {
			if err := d.increment(bus, name); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, unproven)
}

// InstallPolicy checks a signed policy against the configured vendor key and the
// TPM's counter, and then replaces the file at path with it, all or nothing. A
// policy whose every alternative is revoked is refused. That one of them matches
// the present boot state is not asked for: it may be that of the next.
func (d *device) InstallPolicy(ctx context.Context, path string, data []byte) error {
	if d.cfg.Policy.kind() != kindSigned {
		return errors.New("tpmwrap: no signed policy is configured")
	}
	doc, err := d.verified(data)
	if err != nil {
		return err
	}
	highest := highestNumber(doc)
	err = d.with(ctx, func(bus *pinned.Bus) error {
		key, err := d.known(bus)
		if err != nil {
			return err
		}
		defer key.Close()
		now, _, err := d.counter(bus, key)
		if err == nil && highest < now {
			err = cause.New(cause.PolicyRolledBack, fmt.Errorf("tpmwrap: the policy has number %d, the counter is at %d", highest, now))
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := d.cfg.writer.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("tpmwrap: install policy: %w", err)
	}
	return nil
}

func highestNumber(doc *pcrpolicy.Document) uint64 {
	highest := uint64(0)
	for _, a := range doc.Alternatives {
		highest = max(highest, a.Number)
	}
	return highest
}
