package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// borrowed is a TPM whose owner closes it.
type borrowed struct{ transport.TPM }

func (borrowed) Close() error { return nil }

func sealer(tpm transport.TPM) (*tpmwrap.Sealed, error) {
	return tpmwrap.NewSealed(tpmwrap.Config{
		Open:   func(context.Context) (transport.TPMCloser, error) { return borrowed{tpm}, nil },
		Parent: tpmwrap.ParentECCP256,
	})
}

// wrapSecrets wraps the key of Configuration Integrity with the TPM. Handing it
// to the kernel needs root and an encrypted file system: see
// examples/integrityd.
func wrapSecrets(ctx context.Context, w *world) (facts, error) {
	wrapper, err := sealer(w.tpm)
	if err != nil {
		return nil, err
	}
	key, binding, again := make([]byte, integrity.KeySize), make([]byte, 32), make([]byte, integrity.KeySize)
	if err := wrapper.GenerateKey(ctx, key); err != nil {
		return nil, err
	}
	if _, err := rand.Read(binding); err != nil { // Stands for the digest of the directory manifest.
		return nil, err
	}
	wrapped, err := wrapper.Wrap(ctx, key, binding)
	if err != nil {
		return nil, err
	}
	if _, err := wrapper.Unwrap(ctx, wrapped, binding, again); err != nil {
		return nil, err
	}
	if !bytes.Equal(key, again) {
		return nil, errors.New("the TPM gave another key out than it was given")
	}
	found := facts{{"on disk", fmt.Sprintf("%d bytes, wrapped by the TPM", len(wrapped))}, {"this TPM", "gives the key out"}}

	thief, err := tpmsim.Open()
	if err != nil {
		return nil, err
	}
	defer thief.Close()
	other, err := sealer(thief)
	if err != nil {
		return nil, err
	}
	_, err = other.Unwrap(ctx, wrapped, binding, again)
	if err == nil {
		return nil, errors.New("another TPM gave the key out")
	}
	return append(found, fact{"another TPM", short(err.Error(), 120)}), nil
}
