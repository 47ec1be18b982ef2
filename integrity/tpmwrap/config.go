package tpmwrap

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/internal/durable"
)

// DefaultAnchorIndex is the first of three NV indexes for the anchor, unless a
// product chooses another: this one for a key without a boot policy, the next for
// a literal and the one after for a signed policy. So a key that is wrapped anew
// for another kind of policy has its anchor before the old one is given up.
const DefaultAnchorIndex uint32 = 0x018d0010

// Parent is the kind of storage root key that the key is wrapped under.
type Parent uint8

// The parents.
const (
	ParentRSA2048 Parent = iota
	ParentECCP256
)

// Policy says in which boot states the TPM gives the key out. The zero value
// allows every state in which the TPM can be used at all.
type Policy struct {
	// PCRs asks for the values that these registers have when the key is
	// wrapped. That is always the present state, so before a change of firmware
	// or system the key is wrapped for another kind of policy, and for this one
	// again after the restart: prefer a signed policy.
	PCRs []uint
	// Bank is the bank of PCRs; empty means [pcrpolicy.SHA256]. A signed policy
	// says its own.
	Bank pcrpolicy.Bank

	// Vendor, when set, asks for a boot state that this key signed, and takes
	// the place of PCRs. It is an RSA-2048 or ECDSA P-256 key.
	Vendor crypto.PublicKey
	// Reference must be that of the signed document.
	Reference string
	// Document returns the signed policy that is installed. It is called for
	// each unwrapping. An error that wraps fs.ErrNotExist means that there is
	// none.
	Document func() ([]byte, error)
	// CounterIndex is the NV index of the counter that revokes signed policies;
	// zero means [pcrpolicy.DefaultCounterIndex].
	CounterIndex uint32

	// CapPCR is the register that Cap extends. It must be one of the policy's
	// and at most 15, because the others can be reset. Zero means the highest
	// such register of the policy, and is itself a register only where it is
	// the only one.
	CapPCR uint
	// NoCap leaves the key available until the next restart.
	NoCap bool
}

func (p Policy) kind() kind {
	switch {
	case p.Vendor != nil:
		return kindSigned
	case len(p.PCRs) > 0:
		return kindLiteral
	}
	return kindNone
}

// Config is what both wrappers need.
type Config struct {
	// Open opens the TPM. It is called once for each operation, which closes
	// what it returned. Required.
	Open func(ctx context.Context) (transport.TPMCloser, error)
	// Parent is the kind of storage root key. Zero means RSA-2048.
	Parent Parent
	// Policy says in which boot states the key is given out.
	Policy Policy
	// OwnerAuth is the authorization value of the TPM's owner; empty by
	// default.
	OwnerAuth []byte
	// AnchorIndex is the NV index that keeps the manifest's digest; zero means
	// the one for the kind of policy, see [DefaultAnchorIndex]. To change the
	// vendor's key, wrap the key anew with another index.
	AnchorIndex uint32
	// Timeout bounds one operation, which is up to a dozen commands; zero
	// means one minute.
	Timeout time.Duration
	// Logger may be nil.
	Logger *slog.Logger

	writer durable.Writer
}

const redacted = "tpmwrap.Config(redacted)"

// Format shows nothing, because of OwnerAuth, whatever the verb.
func (Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is as Format.
func (Config) LogValue() slog.Value { return slog.StringValue(redacted) }

func (c *Config) complete() error {
	var errs []error
	if c.Open == nil {
		errs = append(errs, errors.New("Config.Open is nil"))
	}
	if c.Parent > ParentECCP256 {
		errs = append(errs, fmt.Errorf("Parent %d does not exist", c.Parent))
	}
	if c.AnchorIndex == 0 {
		c.AnchorIndex = DefaultAnchorIndex + uint32(c.Policy.kind()-kindNone)
	}
	if c.AnchorIndex>>24 != 1 {
		errs = append(errs, fmt.Errorf("AnchorIndex %#x is not an NV index", c.AnchorIndex))
	}
	if c.Timeout < 0 {
		errs = append(errs, errors.New("Config.Timeout is negative"))
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	errs = append(errs, c.Policy.complete())
	if c.Policy.CounterIndex == c.AnchorIndex {
		errs = append(errs, errors.New("AnchorIndex and CounterIndex are the same"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tpmwrap: config: %w", err)
	}
	return nil
}

func (p *Policy) complete() error {
	if p.CounterIndex == 0 {
		p.CounterIndex = pcrpolicy.DefaultCounterIndex
	}
	if p.CounterIndex>>24 != 1 {
		return fmt.Errorf("CounterIndex %#x is not an NV index", p.CounterIndex)
	}
	if p.Bank == "" {
		p.Bank = pcrpolicy.SHA256
	}
	if _, _, err := p.Bank.Algorithm(); err != nil {
		return err
	}
	switch p.kind() {
	case kindSigned:
		if _, err := pcrpolicy.Public(p.Vendor); err != nil {
			return err
		}
		if p.Document == nil || p.Reference == "" {
			return errors.New("a signed policy needs Document and Reference")
		}
	case kindLiteral:
		p.PCRs = slices.Clone(p.PCRs)
		slices.Sort(p.PCRs)
		p.PCRs = slices.Compact(p.PCRs)
		if last := p.PCRs[len(p.PCRs)-1]; last > maxPCR {
			return fmt.Errorf("PCR %d does not exist", last)
		}
		if !p.NoCap {
			if _, err := p.capOf(p.PCRs); err != nil {
				return err
			}
		}
	}
	return nil
}

// capOf chooses the register to extend among those of a policy in force.
func (p *Policy) capOf(pcrs []uint) (uint, error) {
	if p.CapPCR != 0 {
		if p.CapPCR > maxCapPCR || !slices.Contains(pcrs, p.CapPCR) {
			return 0, fmt.Errorf("CapPCR %d is not a register of the policy that only a restart resets", p.CapPCR)
		}
		return p.CapPCR, nil
	}
	for _, pcr := range slices.Backward(pcrs) {
		if pcr <= maxCapPCR {
			return pcr, nil
		}
	}
	return 0, errors.New("the policy has no register that only a restart resets, so it cannot be capped; set NoCap to accept that")
}

func (c *Config) parent() pinned.Algorithm {
	if c.Parent == ParentECCP256 {
		return pinned.ECCP256
	}
	return pinned.RSA2048
}
