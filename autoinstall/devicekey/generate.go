package devicekey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"

	"github.com/mooringlib/mooring/internal/tpmkey"
)

// Algorithm is a kind of key.
type Algorithm string

// The algorithms. Messages to EC keys are smaller and faster to open; "openssl
// smime", as RFC 8886's appendix uses it, can encrypt to RSA keys only, and
// "openssl cms" to both.
const (
	ECP256  Algorithm = "ec-p256"
	ECP384  Algorithm = "ec-p384"
	RSA2048 Algorithm = "rsa-2048"
	RSA3072 Algorithm = "rsa-3072" // few TPMs have it
)

// Place is where a key is.
type Place string

// The places; the package comment describes them.
const (
	InFile       Place = "file"
	InTPM        Place = "tpm"
	InTPMDualUse Place = "tpm-dual-use"
)

// Spec says what key to make.
type Spec struct {
	// Role is whose key it is, [Vendor] when empty.
	Role Role
	// Algorithm is [ECP256] when empty.
	Algorithm Algorithm
	// Place is [InFile] when empty.
	Place Place
	// Certifier signs the certificate of an [InTPM] key, with CertifierCert as
	// its certificate: the device's IDevID, for example. nil makes an
	// attestation key in the TPM for it and keeps that as attest.key.
	Certifier     crypto.Signer
	CertifierCert *x509.Certificate
}

// Generate makes a key and its certificate and returns the certificate. It fails
// with ErrExists when the role has a key already, or had one that was replaced.
func (s *Store) Generate(ctx context.Context, spec Spec) (*x509.Certificate, error) {
	if err := s.checkSpec(&spec); err != nil {
		return nil, err
	}
	if err := s.cfg.disk.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	name := string(spec.Role)
	for _, other := range []string{name + ".key", name + ".crt"} {
		if _, err := os.Stat(s.path(other)); err == nil {
			if other == name+".crt" {
				// The key is written last, so this is left from an attempt that
				// was cut off.
				continue
			}
			return nil, fmt.Errorf("%w: %s", ErrExists, s.path(other))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("devicekey: %w", err)
		}
	}
	if _, err := os.Stat(s.path("operator.key")); err == nil && spec.Role == Vendor {
		return nil, fmt.Errorf("%w: the operator's key has replaced it for good", ErrExists)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pemKey, public, self, err := s.makeKey(spec)
	if err != nil {
		return nil, err
	}
	signer, issuer := spec.Certifier, spec.CertifierCert
	switch {
	case self != nil:
		signer, issuer = self, nil
	case signer == nil:
		if signer, issuer, err = s.attestationKey(); err != nil {
			return nil, err
		}
	}
	cert, err := s.certify(spec, public, signer, issuer)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.disk.WriteFile(s.path(name+".crt"), encodeCertificate(cert), 0o644); err != nil {
		return nil, err
	}
	return cert, s.cfg.disk.WriteFile(s.path(name+".key"), pemKey, 0o600)
}

func (s *Store) checkSpec(spec *Spec) error {
	if spec.Role == "" {
		spec.Role = Vendor
	}
	if spec.Algorithm == "" {
		spec.Algorithm = ECP256
	}
	if spec.Place == "" {
		spec.Place = InFile
	}
	var errs []error
	errs = append(errs, spec.Role.check())
	switch spec.Algorithm {
	case ECP256, ECP384, RSA2048, RSA3072:
	default:
		errs = append(errs, fmt.Errorf("devicekey: algorithm %q is not known", spec.Algorithm))
	}
	switch spec.Place {
	case InFile:
	case InTPM, InTPMDualUse:
		if s.tpm == nil {
			errs = append(errs, fmt.Errorf("%w: place %q", ErrNoTPM, spec.Place))
		}
	default:
		errs = append(errs, fmt.Errorf("devicekey: place %q is not known", spec.Place))
	}
	if (spec.Certifier == nil) != (spec.CertifierCert == nil) {
		errs = append(errs, errors.New("devicekey: Certifier and CertifierCert go together"))
	}
	if spec.Certifier != nil && spec.Place != InTPM {
		errs = append(errs, fmt.Errorf("devicekey: Certifier is for place %q alone", InTPM))
	}
	return errors.Join(errs...)
}

// makeKey returns the key as a file, its public half, and itself as a signer
// where it can sign.
func (s *Store) makeKey(spec Spec) (pemKey []byte, public crypto.PublicKey, self crypto.Signer, err error) {
	if spec.Place == InFile {
		key, err := newSoftwareKey(spec.Algorithm)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("devicekey: make a key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("devicekey: encode a key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), key.Public(), key, nil
	}
	template := tpmTemplate(spec.Algorithm, tpmkey.Decrypt)
	if spec.Place == InTPMDualUse {
		template = template.DualUse()
	}
	blob, err := s.tpm.Create(template)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("devicekey: make a key in the TPM: %w", err)
	}
	if spec.Place == InTPMDualUse {
		key, err := s.tpm.Load(blob)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("devicekey: load the new key: %w", err)
		}
		self = key
	}
	return blob.MarshalPEM(), blob.Public(), self, nil
}

func tpmTemplate(a Algorithm, use tpmkey.Use) tpmkey.Template {
	switch a {
	case ECP256:
		return tpmkey.ECC(elliptic.P256(), use)
	case ECP384:
		return tpmkey.ECC(elliptic.P384(), use)
	case RSA2048:
		return tpmkey.RSA(2048, use)
	default:
		return tpmkey.RSA(3072, use)
	}
}

// attestationKey loads the key that certifies decrypt-only keys of this TPM, and
// makes it when it is not there.
func (s *Store) attestationKey() (crypto.Signer, *x509.Certificate, error) {
	private, err := s.load("attest")
	if err == nil {
		key, ok := private.(*tpmkey.Key)
		if !ok {
			return nil, nil, fmt.Errorf("devicekey: attest.key is not in the TPM")
		}
		cert, err := s.certificate("attest")
		return key, cert, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	blob, err := s.tpm.Create(tpmTemplate(ECP256, tpmkey.Sign))
	if err != nil {
		return nil, nil, fmt.Errorf("devicekey: make an attestation key: %w", err)
	}
	key, err := s.tpm.Load(blob)
	if err != nil {
		return nil, nil, fmt.Errorf("devicekey: load the attestation key: %w", err)
	}
	tmpl, err := template(s.cfg.Serial + " attestation key")
	if err != nil {
		return nil, nil, err
	}
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.MaxPathLenZero = true, true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	cert, err := create(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if err := s.cfg.disk.WriteFile(s.path("attest.crt"), encodeCertificate(cert), 0o644); err != nil {
		return nil, nil, err
	}
	return key, cert, s.cfg.disk.WriteFile(s.path("attest.key"), blob.MarshalPEM(), 0o600)
}

// certify wraps the public key. issuer is nil for a key that signs itself.
func (s *Store) certify(spec Spec, public crypto.PublicKey, signer crypto.Signer, issuer *x509.Certificate) (*x509.Certificate, error) {
	tmpl, err := template(s.cfg.Serial)
	if err != nil {
		return nil, err
	}
	tmpl.KeyUsage = x509.KeyUsageKeyEncipherment
	if _, ok := public.(*ecdsa.PublicKey); ok {
		tmpl.KeyUsage = x509.KeyUsageKeyAgreement
	}
	if spec.Place == InTPMDualUse {
		tmpl.KeyUsage |= x509.KeyUsageDigitalSignature
	}
	if issuer == nil {
		issuer = tmpl
	}
	return create(tmpl, issuer, public, signer)
}

func template(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("devicekey: random number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		// A device in the factory may not know the time, and a key has no end:
		// RFC 5280 section 4.1.2.5 for "no well-defined expiration date".
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, nil
}

func create(tmpl, issuer *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, public, signer)
	if err != nil {
		return nil, fmt.Errorf("devicekey: make a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("devicekey: make a certificate: %w", err)
	}
	return cert, nil
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
