package tpmwrap

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/integrity/internal/pinned"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

// State reads the present values of PCRs, which is what a policy for the boot
// state of this moment asks for. The values are not authenticated.
func State(ctx context.Context, tpm transport.TPM, bank pcrpolicy.Bank, pcrs []uint) (pcrpolicy.Alternative, error) {
	bus := pinned.NewBus(ctx, tpm)
	defer bus.Wipe()
	return readPCRs(bus, bank, pcrs)
}

func readPCRs(bus *pinned.Bus, bank pcrpolicy.Bank, pcrs []uint) (pcrpolicy.Alternative, error) {
	out := pcrpolicy.Alternative{Bank: bank}
	alg, size, err := bank.Algorithm()
	if err != nil {
		return out, err
	}
	// A TPM returns at most eight values in one response.
	const perRead = 8
	for start := 0; start < len(pcrs); start += perRead {
		part := pcrs[start:min(start+perRead, len(pcrs))]
		rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(part...),
		}}}}.Execute(bus)
		if err != nil {
			return out, fmt.Errorf("tpm: read PCRs: %w", err)
		}
		if len(rsp.PCRValues.Digests) != len(part) {
			return out, fmt.Errorf("tpm: read PCRs: the TPM has no %s bank with these registers", bank)
		}
		for i, p := range part {
			if len(rsp.PCRValues.Digests[i].Buffer) != size {
				return out, fmt.Errorf("tpm: read PCRs: value of PCR %d has the wrong size", p)
			}
			out.PCRs = append(out.PCRs, pcrpolicy.PCR{Index: p, Value: rsp.PCRValues.Digests[i].Buffer})
		}
	}
	return out, nil
}

// extended is what an extension with the cap makes of a value.
func extended(bank pcrpolicy.Bank, old []byte) []byte {
	h := crypto.SHA256
	if bank == pcrpolicy.SHA384 {
		h = crypto.SHA384
	}
	w := h.New()
	w.Write(old)
	w.Write(capFor(bank))
	return w.Sum(nil)
}

// capFor is the cap's digest in the length of a bank.
func capFor(bank pcrpolicy.Bank) []byte {
	out := make([]byte, 32)
	if bank == pcrpolicy.SHA384 {
		out = make([]byte, 48)
	}
	copy(out, capDigest[:])
	return out
}

func extendCap(bus *pinned.Bus, bank pcrpolicy.Bank, pcr uint) error {
	before, err := readPCRs(bus, bank, []uint{pcr})
	if err != nil {
		return err
	}
	alg, _, err := bank.Algorithm()
	if err != nil {
		return err
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
			HashAlg: alg, Digest: capFor(bank),
		}}},
	}.Execute(bus)
	if err != nil {
		return fmt.Errorf("tpm: extend PCR %d: %w", pcr, err)
	}
	after, err := readPCRs(bus, bank, []uint{pcr})
	if err != nil {
		return err
	}
	if !bytes.Equal(after.PCRs[0].Value, extended(bank, before.PCRs[0].Value)) {
		return errors.New("tpm: the PCR did not take the cap")
	}
	return nil
}
