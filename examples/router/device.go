package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/internal/pemfile"
	"github.com/mooringlib/mooring/internal/tpmdev"
	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

// noTPM is the default of -tpm.
const noTPM = "none"

// deviceFlags say what proves this device's identity.
type deviceFlags struct {
	tpm, cert, key string
}

func (d *deviceFlags) declare(f *flags) {
	f.StringVar(&d.tpm, "tpm", noTPM, tpmHelp+", or \"none\"")
	f.StringVar(&d.cert, "devid-cert", "", "device ID certificate and its intermediate certificates in PEM `F`ile; needs -devid-key")
	f.StringVar(&d.key, "devid-key", "", "the device ID's private key in PEM `F`ile: PKCS #8, or TSS2 PRIVATE KEY with the -tpm that holds it")
}

const tpmHelp = tpmdev.Help + "; the simulator keeps its state in the user's cache folder"

func (d *deviceFlags) check() error {
	if (d.cert == "") != (d.key == "") {
		return errors.New("-devid-cert and -devid-key go together: give both or none")
	}
	return nil
}

// open returns what proves the device, and a function that lets go of it.
func (d *deviceFlags) open() (sco.Signer, func(), error) {
	if d.cert != "" {
		return d.openDeviceID()
	}
	if d.tpm == noTPM {
		return sco.SelfSigned(), func() {}, nil
	}
	tpm, err := openTPM(d.tpm)
	if err != nil {
		return nil, nil, err
	}
	s, err := tpmsigner.New(tpmsigner.Config{TPM: tpm})
	if err != nil {
		_ = tpm.Close()
		return nil, nil, err
	}
	return s, func() { _ = tpm.Close() }, nil
}

// openTPM opens the TPM that -tpm names. "simulator" has one state for each
// user, so that "router ek" and "router onboard" speak of the same TPM.
func openTPM(spec string) (transport.TPMCloser, error) {
	dir := ""
	if spec == tpmdev.Simulator {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no place for the simulator's state: %w; use -tpm simulator:DIR", err)
		}
		dir = filepath.Join(cache, "mooring", "tpm-simulator")
	}
	return tpmdev.Open(spec, dir)
}

func (d *deviceFlags) openDeviceID() (sco.Signer, func(), error) {
	chain, err := readChain(d.cert)
	if err != nil {
		return nil, nil, fmt.Errorf("-devid-cert: %w", err)
	}
	b, err := readSmall(d.key)
	if err != nil {
		return nil, nil, fmt.Errorf("-devid-key: %w", err)
	}
	key, closeKey, err := d.readKey(b)
	if err != nil {
		return nil, nil, fmt.Errorf("-devid-key: %q: %w", d.key, err)
	}
	s, err := sco.DeviceID(chain, key)
	if err != nil {
		closeKey()
		return nil, nil, err
	}
	return s, closeKey, nil
}

func (d *deviceFlags) readKey(b []byte) (crypto.Signer, func(), error) {
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, nil, errors.New("there is no PEM private key (PKCS #8, PKCS #1, SEC 1 or TSS2, not encrypted)")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "TSS2 PRIVATE KEY":
			return d.loadTPMKey(pem.EncodeToMemory(block))
		default:
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the private key can't be read: %w", err)
		}
		if d.tpm != noTPM {
			return nil, nil, &exitError{2, errors.New("the key is not in a TPM, so -tpm has no meaning with it; leave -tpm out, or -devid-cert and -devid-key")}
		}
		s, ok := key.(crypto.Signer)
		if !ok {
			return nil, nil, fmt.Errorf("a key of type %T can't sign", key)
		}
		return s, func() {}, nil
	}
}

// loadTPMKey opens the TPM that wrapped the key.
func (d *deviceFlags) loadTPMKey(b []byte) (crypto.Signer, func(), error) {
	if d.tpm == noTPM {
		return nil, nil, errors.New("the key is wrapped by a TPM; say by which with -tpm")
	}
	blob, err := tpmkey.ParsePEM(b)
	if err != nil {
		return nil, nil, err
	}
	tpm, err := openTPM(d.tpm)
	if err != nil {
		return nil, nil, err
	}
	dev, err := tpmkey.New(tpmkey.Config{TPM: tpm})
	if err != nil {
		_ = tpm.Close()
		return nil, nil, err
	}
	key, err := dev.Load(blob)
	if err != nil {
		_ = tpm.Close()
		return nil, nil, err
	}
	return key, func() { _ = errors.Join(key.Close(), tpm.Close()) }, nil
}

func readSmall(path string) ([]byte, error) { return pemfile.Read(path, maxInput) }

// readChain reads a certificate and those that follow it.
func readChain(path string) ([]*x509.Certificate, error) {
	return pemfile.Certificates(path, maxInput)
}

func runEK(ctx context.Context, args []string, std stdio) error {
	f := newFlags("ek", `ek -tpm TPM [-algorithm rsa|ecc]

Prints the TPM's endorsement key in the form that "conductor router add
-endorsement-key" takes: base64 of the DER public key.`, std)
	spec := f.need("tpm", tpmHelp)
	algorithm := f.String("algorithm", "", "rsa or ecc (default: the key that is persistent in the TPM, else rsa)")
	if err := f.parse(args); err != nil {
		return err
	}
	alg := tpmsigner.Any
	switch *algorithm {
	case "":
	case "rsa":
		alg = tpmsigner.RSA
	case "ecc":
		alg = tpmsigner.ECC
	default:
		return wrongUsage("ek", "-algorithm is rsa or ecc, not %.40q", *algorithm)
	}
	if *spec == noTPM {
		return wrongUsage("ek", "without a TPM there is no endorsement key")
	}
	tpm, err := openTPM(*spec)
	if err != nil {
		return err
	}
	key, err := tpmsigner.EndorsementKey(ctx, tpm, alg)
	if err := errors.Join(err, tpm.Close()); err != nil {
		return err
	}
	fmt.Fprintln(std.out, key)
	return nil
}
