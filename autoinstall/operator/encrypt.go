package operator

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
)

// EncryptConfig says for whom and how Encrypt encrypts.
type EncryptConfig struct {
	// Certificate is the device's. Required.
	Certificate *x509.Certificate
	// CBC writes the AES-256-CBC of RFC 8886, with PKCS #1 v1.5 for RSA keys, for devices that read nothing newer. What
	// is encrypted so can be changed on the way without notice, unless Owner signs it. Default is AES-256-GCM.
	CBC bool
	// BindCipher derives the key that encrypts the content from the cipher's name (RFC 9709), so that nobody can relabel
	// the AES-256-GCM message as an AES-CBC one, which devices that take both would decrypt into nonsense. It is off
	// unless asked for, since the device has to know it: this library's do, openssl 3.0 does not. Not with CBC.
	BindCipher bool
	// Owner signs the configuration inside the encryption; nil leaves it unsigned.
	Owner *Owner
}

// Owner is who answers for a configuration, and what is said about it.
type Owner struct {
	// Key signs: RSA, ECDSA or Ed25519. Required.
	Key crypto.Signer
	// Certificate is the one of Key, which devices trust or can chain to a root that they trust. Required.
	Certificate *x509.Certificate
	// Chain leads from Certificate to that root, which need not be in it.
	Chain []*x509.Certificate
	// Serial names the one device that the configuration is for, so that it cannot be given to another one that has the
	// same key or decrypts it in another way. Empty for none.
	Serial string
	// Counter orders the configurations of a device: one that has installed counter N refuses smaller ones. 0 for none.
	Counter uint64
}

// Encrypt encrypts a configuration to one device and returns the message in PEM, as it is published. The text is
// encrypted as it stands, line ends included.
func Encrypt(configuration []byte, cfg EncryptConfig) ([]byte, error) {
	switch {
	case cfg.Certificate == nil:
		return nil, errors.New("operator: encrypting: no certificate")
	case cfg.CBC && cfg.BindCipher:
		return nil, errors.New("operator: encrypting: CBC and BindCipher exclude each other: a device that reads only CBC cannot read a bound cipher")
	case len(configuration) == 0:
		return nil, errors.New("operator: encrypting: the configuration is empty")
	case len(configuration) > maxConfiguration:
		return nil, fmt.Errorf("operator: encrypting: the configuration has more than %d bytes", maxConfiguration)
	case cms.Detect(configuration[:min(len(configuration), cms.DetectLen)]) != cms.KindPlain:
		return nil, errors.New("operator: encrypting: the configuration is already a CMS message")
	}
	content := configuration
	if cfg.Owner != nil {
		var err error
		if content, err = cfg.Owner.sign(configuration); err != nil {
			return nil, err
		}
	}
	c := cms.EncryptConfig{Recipients: []*x509.Certificate{cfg.Certificate}, BindCipher: cfg.BindCipher}
	if cfg.CBC {
		c.Cipher = cms.AES256CBC
	}
	der, err := cms.Encrypt(content, c)
	if err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	return cms.EncodePEM(der), nil
}

func (o *Owner) sign(configuration []byte) ([]byte, error) {
	if o.Serial != "" {
		if err := checkSerial(o.Serial); err != nil {
			return nil, err
		}
	}
	attrs, err := cms.OwnerClaims{Serial: o.Serial, Counter: o.Counter}.Attributes()
	if err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	der, err := cms.Sign(configuration, cms.SignConfig{Key: o.Key, Certificate: o.Certificate, Chain: o.Chain, Attributes: attrs})
	if err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	return der, nil
}

// Publish puts an encrypted configuration at path, for everybody to read. Who reads at the same time gets the old file
// or the new one whole, never a part and never an empty one.
func Publish(path string, data []byte) error { return publish(durable.Writer{}, path, data) }

func publish(w durable.Writer, path string, data []byte) error {
	if cms.Detect(data[:min(len(data), cms.DetectLen)]) != cms.KindEncrypted {
		return fmt.Errorf("operator: publishing %s: this is not an encrypted configuration", quote(path))
	}
	if err := w.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("operator: publishing: %w", err)
	}
	return nil
}
