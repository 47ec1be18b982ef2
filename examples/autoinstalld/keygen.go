package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmdev"
)

func runKeygen(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs, dir := newFlags("keygen", stdout)
	serial := fs.String("serial", "", "`serial number` of the device (required)")
	tpm := fs.String("tpm", "", "keep the key in a TPM; "+tpmdev.Help)
	dual := fs.Bool("dual-use", false, "with -tpm: one key that decrypts and signs its own certificate, in place of a decrypt-only key that an attestation key certifies")
	algorithm := fs.String("algorithm", string(devicekey.ECP256), "`kind` of key: ec-p256, ec-p384, rsa-2048 or rsa-3072 (openssl smime encrypts to RSA only)")
	operator := fs.String("operator", "", "make the operator's own key; `policy` \"prefer\" keeps the vendor's key, \"replace\" destroys it for good")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(fs, args, dir, 0); err != nil {
		return err
	}
	if err := autoinstall.CheckSerial(*serial); err != nil {
		return usagef("-serial: %w", err)
	}
	policy := devicekey.Policy(*operator)
	switch {
	case *dual && *tpm == "" && *operator == "":
		return usagef("-dual-use is for keys in a TPM: give -tpm too")
	case *operator != "" && policy != devicekey.Prefer && policy != devicekey.Replace:
		return usagef("-operator is %q, not \"prefer\" or \"replace\"", *operator)
	}
	p, err := loadProfile(*dir, *serial)
	if err != nil {
		return err
	}
	if *tpm != "" {
		p.TPM = *tpm
	}
	store, closer, err := keyStore(*dir, p)
	if err != nil {
		return err
	}
	defer closer.Close()
	spec := devicekey.Spec{Algorithm: devicekey.Algorithm(*algorithm), Place: devicekey.InFile}
	if p.TPM != "" {
		spec.Place = devicekey.InTPM
		if *dual {
			spec.Place = devicekey.InTPMDualUse
		}
	}
	name := p.Serial + ".crt"
	if *operator != "" {
		spec.Role, name = devicekey.Operator, p.Serial+"-operator.crt"
	}
	cert, err := store.Generate(ctx, spec)
	if err != nil {
		if errors.Is(err, devicekey.ErrExists) {
			err = fmt.Errorf("%w: keys are never overwritten; give another -dir", err)
		}
		return err
	}
	if *operator != "" {
		if err := store.Adopt(policy); err != nil {
			return err
		}
	}
	if err := p.save(*dir); err != nil {
		return err
	}
	path := filepath.Join(*dir, name)
	var disk durable.Writer
	if err := disk.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o644); err != nil {
		return err
	}
	return printKey(stdout, p.Serial, path, cert, *asJSON)
}

func printKey(w io.Writer, serial, path string, cert *x509.Certificate, asJSON bool) error {
	key := fmt.Sprintf("%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	if asJSON {
		return json.NewEncoder(w).Encode(map[string]string{
			"serial": serial, "certificate": path, "key_sha256": key, "certificate_sha256": fmt.Sprintf("%x", sha256.Sum256(cert.Raw)),
		})
	}
	_, err := fmt.Fprintf(w, "serial:      %s\ncertificate: %s\nkey SHA-256: %s\n", serial, path, key)
	return err
}
