package tpmwrap

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// capDigest is what the cap extends a register with.
var capDigest = sha256.Sum256([]byte("mooring configuration integrity: key withheld until restart"))

// authPolicy returns the digest that an object carries. use is the one command
// that an object without a boot policy allows.
func (d *device) authPolicy(state pcrpolicy.Alternative, use tpm2.TPMCC) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("tpmwrap: %w", err)
	}
	switch d.cfg.Policy.kind() {
	case kindNone:
		err = tpm2.PolicyCommandCode{Code: use}.Update(calc)
	case kindLiteral:
		err = state.PCRPolicy(calc)
	case kindSigned:
		var vendor *tpm2.TPM2BName
		if vendor, err = d.vendorName(); err == nil {
			err = tpm2.PolicyAuthorize{
				PolicyRef: tpm2.TPM2BDigest{Buffer: pcrpolicy.RefDigest(d.cfg.Policy.Reference)},
				KeySign:   *vendor,
			}.Update(calc)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tpmwrap: policy: %w", err)
	}
	return calc.Hash().Digest, nil
}

func (d *device) vendorName() (*tpm2.TPM2BName, error) {
	pub, err := pcrpolicy.Public(d.cfg.Policy.Vendor)
	if err != nil {
		return nil, err
	}
	return tpm2.ObjectName(pub)
}

// satisfy runs the commands that bring a policy session to what an object
// wrapped under k asks for. It returns the boot state that was found to hold.
func (d *device) satisfy(bus *pinned.Bus, session tpm2.Session, k kind, state pcrpolicy.Alternative, use tpm2.TPMCC) (pcrpolicy.Alternative, error) {
	switch k {
	case kindLiteral:
		if err := pcrMatch(bus, session, state); err != nil {
			if isPCRMismatch(err) {
				return state, d.pcrChanged(bus, []pcrpolicy.Alternative{state}, err)
			}
			return state, fmt.Errorf("tpm: boot policy: %w", err)
		}
		return state, nil
	case kindSigned:
		return d.satisfySigned(bus, session)
	}
	_, err := tpm2.PolicyCommandCode{PolicySession: session.Handle(), Code: use}.Execute(bus)
	return state, err
}

func pcrMatch(bus *pinned.Bus, session tpm2.Session, a pcrpolicy.Alternative) error {
	sel, err := a.Selection()
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyPCR{
		PolicySession: session.Handle(),
		PcrDigest:     tpm2.TPM2BDigest{Buffer: a.Composite()},
		Pcrs:          sel,
	}.Execute(bus)
	return err
}

// isPCRMismatch knows what TPM2_PolicyPCR answers when the registers have other
// values (TPM 2.0 Library, Part 3, 23.7).
func isPCRMismatch(err error) bool { return errors.Is(err, tpm2.TPMRCValue) }

// document returns the installed policy, verified.
func (d *device) document() (*pcrpolicy.Document, error) {
	p := d.cfg.Policy
	data, err := p.Document()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cause.New(cause.PolicyMissing, err)
	}
	if err != nil {
		return nil, cause.New(cause.PolicyInvalid, err)
	}
	return d.verified(data)
}

// verified returns a signed policy that is for this configuration, and whose
// every boot state can be capped where that is asked for.
func (d *device) verified(data []byte) (*pcrpolicy.Document, error) {
	p := d.cfg.Policy
	doc, err := pcrpolicy.Parse(data)
	if err == nil {
		err = doc.Verify(p.Vendor)
	}
	if err == nil && (doc.Reference != p.Reference || doc.CounterIndex != p.CounterIndex) {
		err = fmt.Errorf("tpmwrap: policy is for %.64q with counter %#x, not for %q with counter %#x", doc.Reference, doc.CounterIndex, p.Reference, p.CounterIndex)
	}
	if err == nil && !p.NoCap {
		for i, a := range doc.Alternatives {
			if _, cerr := p.capOf(indexes(a)); cerr != nil {
				err = fmt.Errorf("tpmwrap: boot state %d: %w", i+1, cerr)
				break
			}
		}
	}
	if err != nil {
		return nil, cause.New(cause.PolicyInvalid, err)
	}
	return doc, nil
}

func (d *device) satisfySigned(bus *pinned.Bus, session tpm2.Session) (pcrpolicy.Alternative, error) {
	var none pcrpolicy.Alternative
	doc, err := d.document()
	if err != nil {
		return none, err
	}
	// The newest first: when it is revoked, every older one is.
	order := slices.Clone(doc.Alternatives)
	slices.SortStableFunc(order, func(a, b pcrpolicy.Alternative) int {
		switch {
		case a.Number > b.Number:
			return -1
		case a.Number < b.Number:
			return 1
		}
		return 0
	})
	for _, a := range order {
		err := pcrMatch(bus, session, a)
		if isPCRMismatch(err) {
			continue
		}
		if err != nil {
			return none, fmt.Errorf("tpm: boot policy: %w", err)
		}
		return a, d.authorize(bus, session, doc, a)
	}
	return none, d.pcrChanged(bus, order, nil)
}

func (d *device) authorize(bus *pinned.Bus, session tpm2.Session, doc *pcrpolicy.Document, a pcrpolicy.Alternative) error {
	nv, err := doc.CounterCheck(a)
	if err != nil {
		return err
	}
	counter, _ := nv.NVIndex.(tpm2.NamedHandle)
	nv.AuthHandle = tpm2.AuthHandle{Handle: counter.Handle, Name: counter.Name, Auth: tpm2.PasswordAuth(nil)}
	nv.PolicySession = session.Handle()
	if _, err := nv.Execute(bus); err != nil {
		if errors.Is(err, tpm2.TPMRCPolicy) || isNoIndex(err) {
			return cause.New(cause.PolicyRolledBack, fmt.Errorf("policy number %d: %w", a.Number, err))
		}
		return fmt.Errorf("tpm: policy counter: %w", err)
	}
	pub, err := pcrpolicy.Public(d.cfg.Policy.Vendor)
	if err != nil {
		return err
	}
	approved, err := doc.Approved(a)
	if err != nil {
		return err
	}
	digest, err := doc.SignedDigest(a)
	if err != nil {
		return err
	}
	sig, err := signature(pub, a.Signature)
	if err != nil {
		return cause.New(cause.PolicyInvalid, err)
	}
	key, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*pub), Hierarchy: tpm2.TPMRHOwner}.Execute(bus)
	if err != nil {
		return fmt.Errorf("tpm: load vendor key: %w", err)
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(bus) }()
	ticket, err := tpm2.VerifySignature{KeyHandle: key.ObjectHandle, Digest: tpm2.TPM2BDigest{Buffer: digest}, Signature: sig}.Execute(bus)
	if err != nil {
		return cause.New(cause.PolicyInvalid, err)
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return fmt.Errorf("tpm: vendor key: %w", err)
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  session.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: approved},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: pcrpolicy.RefDigest(doc.Reference)},
		KeySign:        *name,
		CheckTicket:    ticket.Validation,
	}.Execute(bus)
	if err != nil {
		return cause.New(cause.PolicyInvalid, err)
	}
	return nil
}

func signature(pub *tpm2.TPMTPublic, sig []byte) (tpm2.TPMTSignature, error) {
	if pub.Type == tpm2.TPMAlgRSA {
		return tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig},
			}),
		}, nil
	}
	var v struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &v); err != nil || len(rest) > 0 || v.R.Sign() <= 0 || v.S.Sign() <= 0 || v.R.BitLen() > 256 || v.S.BitLen() > 256 {
		return tpm2.TPMTSignature{}, errors.New("tpmwrap: malformed ECDSA signature")
	}
	return tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: v.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: v.S.FillBytes(make([]byte, 32))},
		}),
	}, nil
}

// pcrChanged finds out which registers differ from the closest allowed state,
// and whether it is only the cap that does.
func (d *device) pcrChanged(bus *pinned.Bus, allowed []pcrpolicy.Alternative, err error) error {
	out := cause.New(cause.PCRChanged, err)
	for i, a := range allowed {
		indexes := indexes(a)
		now, rerr := readPCRs(bus, a.Bank, indexes)
		if rerr != nil {
			// The diagnosis may fail, the verdict stands.
			out.Err = errors.Join(err, rerr)
			return out
		}
		var differ []uint
		for j, p := range a.PCRs {
			if !bytes.Equal(p.Value, now.PCRs[j].Value) {
				differ = append(differ, p.Index)
			}
		}
		if len(differ) == 1 && !d.cfg.Policy.NoCap {
			capPCR, cerr := d.cfg.Policy.capOf(indexes)
			at := slices.Index(indexes, differ[0])
			if cerr == nil && capPCR == differ[0] && bytes.Equal(now.PCRs[at].Value, extended(a.Bank, a.PCRs[at].Value)) {
				return cause.New(cause.Capped, nil)
			}
		}
		if i == 0 || len(differ) < len(out.PCRs) {
			out.PCRs = differ
		}
	}
	return out
}

func indexes(a pcrpolicy.Alternative) []uint {
	out := make([]uint, len(a.PCRs))
	for i, p := range a.PCRs {
		out[i] = p.Index
	}
	return out
}
