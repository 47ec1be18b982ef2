package sco

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/internal/wire"
)

// Settings is the conductor's own configuration. The pair of an HA conductor
// shares it.
type Settings struct {
	// Certificate is the conductor's public certificate, Key its key (RSA of
	// 2048..4096 bits, P-256 or P-384) and CA the certificate that signed it.
	// All are required.
	Certificate *x509.Certificate
	Key         crypto.Signer
	CA          *x509.Certificate
	// DeviceIDRoots and DeviceIDIntermediates are the manufacturers'
	// certificates for strong mode; without roots no device ID is accepted
	// there.
	DeviceIDRoots, DeviceIDIntermediates *x509.CertPool
	// EndorsementRoots and EndorsementIntermediates are the TPM makers'
	// certificates. With roots every TPM has to show, in strong mode, a
	// certificate for its endorsement key that chains to one; in the other
	// modes, and without roots, none is asked for.
	EndorsementRoots, EndorsementIntermediates *x509.CertPool
	// SSHHostKeys are the keys that the SSH servers of all conductor nodes
	// use: what the router pins. At least one is required, at most eight are
	// allowed: Ed25519, ECDSA P-256 or P-384, RSA 2048..4096.
	SSHHostKeys []ssh.PublicKey
	// SSHPort is the port of the SSH servers; 930 when zero.
	SSHPort uint16
	// SSHAddresses are the SSH servers, HOST:PORT. When empty, the router
	// uses the hosts of its conductor addresses with SSHPort.
	SSHAddresses []string
}

// SettingsFunc returns the present settings. It is called for every connection
// and token, so that a change needs no restart; it should keep what it has
// parsed until that changes. It is safe for concurrent use, and the result is
// not changed afterwards; nil counts as empty settings.
type SettingsFunc func(ctx context.Context) (*Settings, error)

// problems lists everything that keeps the certificates from being used at now.
func (s *Settings) problems(now time.Time) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	window := func(what string, c *x509.Certificate) {
		if now.Before(c.NotBefore) {
			bad("%s is not valid before %s", what, c.NotBefore.UTC().Format(time.RFC3339))
		}
		if now.After(c.NotAfter) {
			bad("%s expired at %s", what, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if s.CA == nil {
		bad("ca-certificate is missing")
	} else {
		window("ca-certificate", s.CA)
	}
	if s.Certificate == nil {
		bad("public-certificate is missing")
	} else {
		window("public-certificate", s.Certificate)
		if err := checkConductorKey(s.Certificate.PublicKey); err != nil {
			bad("public-certificate: %w", err)
		}
	}
	if s.CA != nil && s.Certificate != nil {
		if err := s.Certificate.CheckSignatureFrom(s.CA); err != nil {
			bad("public-certificate is not signed by ca-certificate: %w", err)
		}
	}
	if s.Key == nil {
		bad("the key of public-certificate is missing")
	} else if s.Certificate != nil && !keyMatches(s.Certificate.PublicKey, s.Key) {
		bad("the key does not match public-certificate")
	}
	return errs
}

// check is what a connection needs: problems, and host keys for the answer.
func (s *Settings) check(now time.Time) error {
	errs := s.problems(now)
	if n := len(s.SSHHostKeys); n == 0 || n > wire.MaxHostKeys {
		errs = append(errs, fmt.Errorf("there are %d SSH host keys, it takes 1..%d", n, wire.MaxHostKeys))
	}
	for _, k := range s.SSHHostKeys {
		if _, err := parseSSHKey(k.Marshal()); err != nil {
			errs = append(errs, fmt.Errorf("SSH host key: %w", err))
		}
	}
	if n := len(s.SSHAddresses); n > maxAddresses {
		errs = append(errs, fmt.Errorf("there are %d SSH addresses, the most is %d", n, maxAddresses))
	}
	for _, a := range s.SSHAddresses {
		if err := checkAddress(a); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Settings) sshPort() uint16 {
	if s.SSHPort == 0 {
		return 930
	}
	return s.SSHPort
}

func keyMatches(pub crypto.PublicKey, key crypto.Signer) bool {
	p, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(key.Public())
}

func checkConductorKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("an RSA key has 2048..4096 bits, this one %d", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	}
	return errors.New("the key is neither RSA nor ECDSA on P-256 or P-384")
}
