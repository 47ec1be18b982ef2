package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/tpmkey"
)

// TPM is the store whose private keys never leave a TPM 2.0. It is safe for
// concurrent use.
type TPM struct{ dev *tpmkey.Device }

// NewTPM returns a store on a TPM. It uses at most two transient objects and one
// session, and none of them between operations. Commands that carry secrets go
// in encrypted sessions that are salted to the storage root key. srkName, when
// not nil, is the TPM name that the storage root key must have.
func NewTPM(tpm transport.TPM, srkName []byte) (*TPM, error) {
	dev, err := tpmkey.New(tpmkey.Config{TPM: tpm, SRKName: srkName})
	if err != nil {
		return nil, fmt.Errorf("keystore: %w", err)
	}
	return &TPM{dev: dev}, nil
}

// Generate makes a key in the TPM. TPMs make RSA keys of 2048, sometimes 3072
// and 4096 bits, and keys on P-256, mostly P-384, sometimes P-521; others are
// refused with [ErrUnsupported].
func (t *TPM) Generate(ctx context.Context, s Spec) ([]byte, error) {
	if err := errors.Join(s.check(), ctx.Err()); err != nil {
		return nil, err
	}
	template := tpmkey.RSA(s.RSABits, tpmkey.Sign)
	if s.Curve != nil {
		template = tpmkey.ECC(s.Curve, tpmkey.Sign)
	}
	blob, err := t.dev.Create(template)
	if err != nil {
		return nil, wrap(err)
	}
	return blob.MarshalPEM(), nil
}

// Open loads a TSS2 PRIVATE KEY. A key of another TPM, and one that was made
// outside a TPM, are refused.
func (t *TPM) Open(ctx context.Context, text []byte) (crypto.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	blob, err := tpmkey.ParsePEM(text)
	if err != nil {
		return nil, wrap(err)
	}
	key, err := t.dev.Load(blob)
	if err != nil {
		return nil, wrap(err)
	}
	return key, nil
}

func wrap(err error) error {
	if errors.Is(err, tpmkey.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("keystore: %w", err)
}
