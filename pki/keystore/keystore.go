package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// ErrUnsupported means that the store does not make such a key, or that the key
// file is not one of its own.
var ErrUnsupported = errors.New("keystore: not supported")

// maxKeyFile bounds the text of a key file. RSA 4096 takes about 3 KiB.
const maxKeyFile = 16 << 10

// Spec says what key to make. Exactly one of the fields is set.
type Spec struct {
	// RSABits is the size of the modulus: 2048 to 4096 in steps of 256.
	RSABits int
	// Curve is P-256, P-384 or P-521.
	Curve elliptic.Curve
}

// String names the kind of key, such as "RSA 2048" or "ECC P-256".
func (s Spec) String() string {
	if s.Curve != nil {
		return "ECC " + s.Curve.Params().Name
	}
	return fmt.Sprintf("RSA %d", s.RSABits)
}

func (s Spec) check() error {
	switch {
	case s.Curve != nil && s.RSABits != 0:
		return fmt.Errorf("%w: both an RSA size and a curve", ErrUnsupported)
	case s.Curve != nil:
		if s.Curve != elliptic.P256() && s.Curve != elliptic.P384() && s.Curve != elliptic.P521() {
			return fmt.Errorf("%w: curve %q", ErrUnsupported, s.Curve.Params().Name)
		}
	case s.RSABits < 2048 || s.RSABits > 4096 || s.RSABits%256 != 0:
		return fmt.Errorf("%w: RSA key of %d bits", ErrUnsupported, s.RSABits)
	}
	return nil
}

// Software is the store whose files hold the private keys themselves. The zero
// value is ready for use and safe for concurrent use.
type Software struct{}

// Generate makes a key and returns it as PKCS #8 in PEM.
func (Software) Generate(ctx context.Context, s Spec) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var key any
	var err error
	if s.Curve != nil {
		key, err = ecdsa.GenerateKey(s.Curve, rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, s.RSABits)
	}
	if err != nil {
		return nil, fmt.Errorf("keystore: generate %s key: %w", s, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("keystore: encode %s key: %w", s, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Open reads a key in PKCS #8, PKCS #1 or SEC 1 form, so that keys that were
// made by other programs and put in place by hand work too. Encrypted keys are
// refused.
func (Software) Open(ctx context.Context, text []byte) (crypto.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%w: the key file has more than %d bytes", ErrUnsupported, maxKeyFile)
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("keystore: the key file holds no private key in PEM")
		}
		text = rest
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, fmt.Errorf("%w: the key is encrypted", ErrUnsupported)
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "EC PARAMETERS":
			// openssl ecparam -genkey writes them before the key.
			continue
		default:
			return nil, fmt.Errorf("%w: key file with a %.40q", ErrUnsupported, block.Type)
		}
		if err != nil {
			// The text of the error may quote what was read.
			return nil, errors.New("keystore: the private key does not parse")
		}
		return seal(key)
	}
}

func seal(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if err := k.Validate(); err != nil {
			return nil, errors.New("keystore: the RSA key is not consistent")
		}
		return sealed{k}, nil
	case *ecdsa.PrivateKey:
		return sealed{k}, nil
	}
	return nil, fmt.Errorf("%w: key type %T", ErrUnsupported, key)
}

// sealed lets a key be used and not be written, printed or logged.
type sealed struct{ signer crypto.Signer }

func (s sealed) Public() crypto.PublicKey { return s.signer.Public() }

func (s sealed) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.signer.Sign(r, digest, opts)
}

func (s sealed) String() string               { return "private key" }
func (s sealed) GoString() string             { return "private key" }
func (s sealed) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, "private key") }
func (s sealed) LogValue() slog.Value         { return slog.StringValue("private key") }
func (s sealed) MarshalJSON() ([]byte, error) { return []byte(`"private key"`), nil }
