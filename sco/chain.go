package sco

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// parseChain parses a router's certificates and bounds their keys before any
// signature is verified: a large key is a cheap way to cost much.
func parseChain(raw [][]byte) ([]*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is malformed", i+1)
		}
		switch k := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if n := k.N.BitLen(); n < 2048 || n > 4096 {
				return nil, fmt.Errorf("certificate %d has an RSA key of %d bits, 2048..4096 are accepted", i+1, n)
			}
		case *ecdsa.PublicKey:
		default:
			return nil, fmt.Errorf("certificate %d has neither an RSA nor an ECDSA key", i+1)
		}
		chain[i] = c
	}
	return chain, nil
}

// verifyChain checks chain[0] up to a root. Neither names nor extended key
// usages are asked for: device IDs and endorsement keys have their own.
func verifyChain(chain []*x509.Certificate, roots, intermediates *x509.CertPool, now time.Time) error {
	pool := x509.NewCertPool()
	if intermediates != nil {
		pool = intermediates.Clone()
	}
	for _, c := range chain[1:] {
		pool.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: pool,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// oidSubjectAltName is critical, and of a form that crypto/x509 does not
// understand, in the certificates of endorsement keys (TCG EK Credential Profile
// section 3.2.9); it names the TPM's maker and is of no use here.
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// checkEKCertificates wants a certificate for the endorsement key that chains to
// a configured root. Any of those shown may be it, the others serve
// as its intermediates.
func checkEKCertificates(raw [][]byte, ek crypto.PublicKey, s *Settings, now time.Time) error {
	if len(raw) == 0 {
		return errors.New("the TPM has no certificate for its endorsement key, and roots are configured for it")
	}
	chain, err := parseChain(raw)
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	for i, c := range chain {
		pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !pub.Equal(ek) {
			continue
		}
		c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
		rest := append([]*x509.Certificate{c}, slices.Delete(slices.Clone(chain), i, i+1)...)
		if err := verifyChain(rest, s.EndorsementRoots, s.EndorsementIntermediates, now); err != nil {
			return fmt.Errorf("the endorsement key's certificate does not chain to a TPM maker's root: %w", err)
		}
		return nil
	}
	return errors.New("none of the TPM's certificates is for its endorsement key")
}

func checkEndorsementKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() == 2048 && k.E == 65537 {
			return nil
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("the endorsement key is neither RSA 2048 nor P-256")
}
