package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/mooringlib/mooring/pki/internal/pemtext"
	"github.com/mooringlib/mooring/pki/verify"
)

// parseCertificates reads the certificates of a text. Blocks with private keys
// are left out: the check for them names them.
func parseCertificates(text []byte, limit int) ([]*x509.Certificate, []verify.Issue) {
	blocks, err := pemtext.Blocks(text, limit)
	if err != nil {
		class := verify.Malformed
		if errors.Is(err, pemtext.ErrTooMany) {
			class = verify.TooLarge
		}
		return nil, []verify.Issue{{Class: class, Text: err.Error()}}
	}
	var certs []*x509.Certificate
	var issues []verify.Issue
	bad := func(format string, args ...any) {
		issues = append(issues, verify.Issue{Class: verify.Malformed, Text: fmt.Sprintf(format, args...)})
	}
	for i, b := range blocks {
		switch {
		case b.Type == "CERTIFICATE" || b.Type == "X509 CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				// A private key under this label is named by another check.
				if _, ok := pemtext.FindPrivateKey(b.Bytes); !ok {
					bad("PEM block %d is not a certificate: %.200s", i+1, strings.TrimPrefix(err.Error(), "x509: "))
				}
				continue
			}
			certs = append(certs, c)
		case strings.Contains(b.Type, "PRIVATE KEY"):
		case strings.Contains(b.Type, "CERTIFICATE REQUEST"):
			bad("PEM block %d is a certificate request; the authority's answer to it is needed", i+1)
		default:
			bad("PEM block %d is a %.40q, not a certificate", i+1, b.Type)
		}
	}
	if len(certs) == 0 && len(issues) == 0 {
		bad("there is no certificate in PEM")
	}
	if len(issues) > 0 {
		return nil, issues
	}
	return certs, nil
}

// publicEqual compares public keys of any type.
func publicEqual(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// leafFor returns the certificate for a public key that is not an authority's,
// or else any that has the key.
func leafFor(certs []*x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	var found *x509.Certificate
	for _, c := range certs {
		if publicEqual(c.PublicKey, pub) && (found == nil || found.IsCA && !c.IsCA) {
			found = c
		}
	}
	return found
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		// Writing to a buffer does not fail.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}
