package devicekey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmkey"
)

// What a caller may branch on.
var (
	// ErrExists: there is such a key already; it is never overwritten.
	ErrExists = errors.New("devicekey: the key exists already")
	// ErrNoKey: there is no such key.
	ErrNoKey = errors.New("devicekey: no key")
	// ErrNoTPM: a key is in the TPM, and Config.TPM is nil.
	ErrNoTPM = errors.New("devicekey: the key is in the TPM and no TPM is given")
)

const maxFile = 64 << 10

// Role says whose key it is.
type Role string

// The roles.
const (
	// Vendor is the key from the factory, in the vendor's directory.
	Vendor Role = "vendor"
	// Operator is the key that the operator had made.
	Operator Role = "operator"
)

// Policy says what an operator's key does to the vendor's.
type Policy string

// The policies; the package comment says what each costs.
const (
	Prefer  Policy = "prefer"
	Replace Policy = "replace"
)

// Config is what a [Store] is made of.
type Config struct {
	// Dir holds the keys: vendor.key and vendor.crt, operator.key and
	// operator.crt, attest.key and attest.crt. It is made when it is not there.
	// Required.
	Dir string
	// Serial becomes the common name of certificates. Required.
	Serial string
	// TPM is used for keys in the TPM. Its Send must be safe for concurrent
	// use.
	TPM transport.TPM

	disk durable.Writer
}

// Store keeps the keys of one device. Its methods must not run concurrently
// with each other, in other processes either; the keys it returns may be used
// concurrently.
type Store struct {
	cfg Config
	tpm *tpmkey.Device
}

// Open checks cfg. It does no I/O.
func Open(cfg Config) (*Store, error) {
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("devicekey: Dir is required"))
	}
	if err := autoinstall.CheckSerial(cfg.Serial); err != nil {
		errs = append(errs, fmt.Errorf("devicekey: Serial: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg}
	if cfg.TPM != nil {
		dev, err := tpmkey.New(tpmkey.Config{TPM: cfg.TPM})
		if err != nil {
			return nil, fmt.Errorf("devicekey: %w", err)
		}
		s.tpm = dev
	}
	return s, nil
}

func (s *Store) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// Keys returns the keys that configurations may be encrypted to, in the order in
// which they are tried: the operator's, then the vendor's. It fails with
// ErrNoKey when there is none.
func (s *Store) Keys() ([]autoinstall.Key, error) {
	var keys []autoinstall.Key
	for _, role := range []Role{Operator, Vendor} {
		private, err := s.load(string(role))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		decrypter, err := asDecrypter(private)
		if err != nil {
			return nil, fmt.Errorf("devicekey: %s key: %w", role, err)
		}
		cert, err := s.certificate(string(role))
		if err != nil {
			return nil, err
		}
		keys = append(keys, autoinstall.Key{Name: string(role), Private: decrypter, Certificates: []*x509.Certificate{cert}})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w in %q", ErrNoKey, s.cfg.Dir)
	}
	return keys, nil
}

// Certificate returns the certificate of a role's key, to be published.
func (s *Store) Certificate(role Role) (*x509.Certificate, error) {
	if err := role.check(); err != nil {
		return nil, err
	}
	cert, err := s.certificate(string(role))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoKey, role)
	}
	return cert, err
}

// NeedsTPM says whether a key of this store is in a TPM.
func (s *Store) NeedsTPM() (bool, error) {
	for _, role := range []Role{Operator, Vendor} {
		block, err := s.readPEM(string(role) + ".key")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if block.Type == tpmkey.PEMType {
			return true, nil
		}
	}
	return false, nil
}

// Adopt puts the operator's key into force by a policy. With [Replace] the
// vendor's key is destroyed and can't be had back.
func (s *Store) Adopt(policy Policy) error {
	if _, err := s.load(string(Operator)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: generate the operator's key first", ErrNoKey)
		}
		return err
	}
	switch policy {
	case Prefer:
		return nil
	case Replace:
		// The certificate goes last: it is what shows a person that there was
		// a key.
		if err := s.cfg.disk.Remove(s.path("vendor.key")); err != nil {
			return err
		}
		return s.cfg.disk.Remove(s.path("vendor.crt"))
	default:
		return fmt.Errorf("devicekey: policy %q is not %q or %q", policy, Prefer, Replace)
	}
}

// Reset is the part of a factory reset that is about keys: the operator's key is
// dropped where the vendor's is still there, and kept where it has replaced it.
func (s *Store) Reset() error {
	if _, err := os.Stat(s.path("vendor.key")); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("devicekey: %w", err)
	}
	if err := s.cfg.disk.Remove(s.path("operator.key")); err != nil {
		return err
	}
	return s.cfg.disk.Remove(s.path("operator.crt"))
}

func (r Role) check() error {
	if r != Vendor && r != Operator {
		return fmt.Errorf("devicekey: role %q is not %q or %q", r, Vendor, Operator)
	}
	return nil
}

// load reads a private key: *ecdsa.PrivateKey, *rsa.PrivateKey or *tpmkey.Key.
func (s *Store) load(name string) (any, error) {
	block, err := s.readPEM(name + ".key")
	if err != nil {
		return nil, err
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("devicekey: %s.key is damaged", name)
		}
		return key, nil
	case tpmkey.PEMType:
		if s.tpm == nil {
			return nil, fmt.Errorf("%w: %s.key", ErrNoTPM, name)
		}
		blob, err := tpmkey.ParsePEM(pem.EncodeToMemory(block))
		if err != nil {
			return nil, fmt.Errorf("devicekey: %s.key: %w", name, err)
		}
		key, err := s.tpm.Load(blob)
		if err != nil {
			return nil, fmt.Errorf("devicekey: %s.key: %w", name, err)
		}
		return key, nil
	default:
		return nil, fmt.Errorf("devicekey: %s.key holds %.32q, not a private key", name, block.Type)
	}
}

func (s *Store) certificate(name string) (*x509.Certificate, error) {
	block, err := s.readPEM(name + ".crt")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("devicekey: %s.crt is damaged: %w", name, err)
	}
	return cert, nil
}

func (s *Store) readPEM(name string) (*pem.Block, error) {
	info, err := os.Stat(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("devicekey: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("devicekey: %s is larger than %d bytes", name, maxFile)
	}
	if strings.HasSuffix(name, ".key") && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("devicekey: %s can be read by others (mode %#o): chmod 600 it", name, info.Mode().Perm())
	}
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("devicekey: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("devicekey: %s holds no PEM block", name)
	}
	return block, nil
}

func asDecrypter(private any) (any, error) {
	switch key := private.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey:
		return key, nil
	case *tpmkey.Key:
		if _, ok := key.Public().(*rsa.PublicKey); ok {
			return key.Decrypter()
		}
		return key.KeyExchanger()
	default:
		return nil, fmt.Errorf("%T can't decrypt", private)
	}
}

// newSoftwareKey makes a key in memory.
func newSoftwareKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case ECP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	default:
		return rsa.GenerateKey(rand.Reader, 3072)
	}
}
