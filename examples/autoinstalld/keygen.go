package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmdev"
)

func runKeygen(ctx context.Context, args []string, stdout, _ io.Writer) error {
	flags, dir := newFlags("keygen", stdout)
	serial := flags.String("serial", "", "`serial number` of the device (required)")
	tpm := flags.String("tpm", "", "keep the key in a TPM; "+tpmdev.Help)
	dual := flags.Bool("dual-use", false, "with -tpm: one key that decrypts and signs its own certificate, in place of a decrypt-only key that an attestation key certifies")
	algorithm := flags.String("algorithm", string(devicekey.ECP256), "`kind` of key: ec-p256, ec-p384, rsa-2048 or rsa-3072 (openssl smime encrypts to RSA only)")
	operator := flags.String("operator", "", "make the operator's own key; `policy` \"prefer\" keeps the vendor's key, \"replace\" destroys it for good")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(flags, args, dir, 0); err != nil {
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
	switch devicekey.Algorithm(*algorithm) {
	case devicekey.ECP256, devicekey.ECP384, devicekey.RSA2048, devicekey.RSA3072:
	default:
		return usagef("-algorithm is %.32q, not ec-p256, ec-p384, rsa-2048 or rsa-3072", *algorithm)
	}
	order := keyOrder{dir: *dir, serial: *serial, tpm: *tpm, policy: policy}
	order.spec = devicekey.Spec{Role: devicekey.Vendor, Algorithm: devicekey.Algorithm(*algorithm), Place: devicekey.InFile}
	if *dual {
		order.spec.Place = devicekey.InTPMDualUse
	}
	if *operator != "" {
		order.spec.Role = devicekey.Operator
	}
	cert, err := order.make(ctx)
	if err != nil {
		if errors.Is(err, devicekey.ErrExists) {
			err = fmt.Errorf("%w: keys are never overwritten; give another -dir", err)
		}
		return err
	}
	return printKey(stdout, *serial, filepath.Join(*dir, order.certName()), cert, *asJSON)
}

// keyOrder is a key to be made.
type keyOrder struct {
	dir, serial, tpm string
	spec             devicekey.Spec
	policy           devicekey.Policy // of an operator's key
	disk             durable.Writer
}

func (o *keyOrder) certName() string {
	if o.spec.Role == devicekey.Operator {
		return o.serial + "-operator.crt"
	}
	return o.serial + ".crt"
}

// make does the steps of keygen in an order that can be cut off anywhere: the
// profile comes first, because a key in a TPM is of no use without it; what
// destroys comes last. Another call does what is left to do.
func (o *keyOrder) make(ctx context.Context) (*x509.Certificate, error) {
	p, err := loadProfile(o.dir, o.serial)
	if err != nil {
		return nil, err
	}
	known, err := o.exists(profileDir, deviceFile)
	if err != nil {
		return nil, err
	}
	before := p
	if o.tpm != "" {
		p.TPM = o.tpm
	}
	if p.TPM != "" && o.spec.Place == devicekey.InFile {
		o.spec.Place = devicekey.InTPM
	}
	if p.TPM == "" {
		o.spec.Place = devicekey.InFile
	}
	store, closer, err := keyStore(o.dir, p)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	cert, err := o.existing(store)
	if err != nil {
		return nil, err
	}
	if cert != nil && o.tpm != "" && o.tpm != before.TPM && known {
		return nil, fmt.Errorf("%w, made with -tpm %.200q", devicekey.ErrExists, before.TPM)
	}
	if err := p.save(o.dir, o.disk); err != nil {
		return nil, err
	}
	if cert == nil {
		if cert, err = store.Generate(ctx, o.spec); err != nil {
			return nil, err
		}
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := publicFile(o.dir, o.certName(), b, o.disk); err != nil {
		return nil, err
	}
	if o.spec.Role == devicekey.Operator {
		return cert, store.Adopt(o.policy)
	}
	return cert, nil
}

// existing returns the certificate of a key that an earlier call made and did
// not complete, nil when there is no key yet, and ErrExists when there is
// nothing left to do for it, or when it is not the key that was ordered.
func (o *keyOrder) existing(store *devicekey.Store) (*x509.Certificate, error) {
	there, err := o.exists("keys", string(o.spec.Role)+".key")
	if err != nil {
		return nil, err
	}
	if !there {
		replaced, err := o.exists("keys", "operator.key")
		if err == nil && replaced && o.spec.Role == devicekey.Vendor {
			err = fmt.Errorf("%w: the operator's key has replaced the vendor's for good", devicekey.ErrExists)
		}
		return nil, err
	}
	exists := fmt.Errorf("%w: %s", devicekey.ErrExists, filepath.Join(o.dir, "keys", string(o.spec.Role)+".key"))
	cert, err := store.Certificate(o.spec.Role)
	if err != nil {
		return nil, err
	}
	if inTPM, err := store.NeedsTPM(); err != nil {
		return nil, err
	} else if o.spec.Role == devicekey.Vendor && inTPM != (o.spec.Place != devicekey.InFile) {
		return nil, exists
	}
	if cert.Subject.CommonName != o.serial || algorithmOf(cert) != o.spec.Algorithm {
		return nil, exists
	}
	complete, err := o.complete(cert)
	if err == nil && complete {
		err = exists
	}
	return cert, err
}

// complete says whether the call that made the key came to its end.
func (o *keyOrder) complete(cert *x509.Certificate) (bool, error) {
	if there, err := o.exists(profileDir, deviceFile); err != nil || !there {
		return false, err
	}
	b, err := os.ReadFile(filepath.Join(o.dir, o.certName()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if block, _ := pem.Decode(b); block == nil || !bytes.Equal(block.Bytes, cert.Raw) {
		return false, nil
	}
	if o.policy != devicekey.Replace {
		return true, nil
	}
	for _, name := range []string{"vendor.key", "vendor.crt"} {
		if there, err := o.exists("keys", name); err != nil || there {
			return false, err
		}
	}
	return true, nil
}

func (o *keyOrder) exists(elem ...string) (bool, error) {
	_, err := os.Stat(filepath.Join(append([]string{o.dir}, elem...)...))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func algorithmOf(cert *x509.Certificate) devicekey.Algorithm {
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return map[elliptic.Curve]devicekey.Algorithm{elliptic.P256(): devicekey.ECP256, elliptic.P384(): devicekey.ECP384}[key.Curve]
	case *rsa.PublicKey:
		return map[int]devicekey.Algorithm{2048: devicekey.RSA2048, 3072: devicekey.RSA3072}[key.N.BitLen()]
	}
	return ""
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
