package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"
)

// found collects the issues of one certificate.
type found struct {
	subject string
	issues  []Issue
}

func newFound(c *x509.Certificate) *found { return &found{subject: Subject(c)} }

func (f *found) add(class Class, format string, args ...any) {
	f.issues = append(f.issues, Issue{Class: class, Subject: f.subject, Text: fmt.Sprintf(format, args...)})
}

func (f *found) warn(class Class, format string, args ...any) {
	f.add(class, format, args...)
	f.issues[len(f.issues)-1].Warning = true
}

// Subject returns a name for a certificate, for people: its subject, or its
// serial number when that is empty. It is capped.
func Subject(c *x509.Certificate) string {
	s := c.Subject.String()
	if s == "" {
		s = fmt.Sprintf("serial %x", c.SerialNumber)
	}
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "..."
	}
	return s
}

// CheckLeaf checks a certificate that is used by a router or a peer, by itself.
// A missing extended key usage, keyUsage or subjectAltName is a warning.
func CheckLeaf(c *x509.Certificate, now time.Time) []Issue {
	f := newFound(c)
	f.common(c, now)
	if c.Version != 3 {
		// RFC 5280 section 4.1.2.1 allows it while there are no extensions, and
		// "openssl x509 -req" makes such ones.
		f.warn(Version, "version %d, without extensions; version 3 is expected", c.Version)
	}
	if c.BasicConstraintsValid && c.IsCA {
		f.add(Role, "it is the certificate of an authority (CA:TRUE)")
	}
	if _, ok := extension(c, oidNameConstraints); ok {
		f.add(Extension, "nameConstraints in a certificate that is not an authority's (RFC 5280 section 4.2.1.10)")
	}
	switch {
	case c.KeyUsage == 0:
		f.warn(KeyUsage, "no keyUsage")
	default:
		if c.KeyUsage&x509.KeyUsageCertSign != 0 {
			f.add(KeyUsage, "keyUsage has keyCertSign, but it is not an authority")
		}
		if c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			f.add(KeyUsage, "keyUsage lacks digitalSignature")
		}
	}
	eku := c.ExtKeyUsage
	switch {
	case len(eku) == 0 && len(c.UnknownExtKeyUsage) == 0:
		f.warn(ExtendedKeyUsage, "no extended key usage")
	case !slices.Contains(eku, x509.ExtKeyUsageClientAuth) && !slices.Contains(eku, x509.ExtKeyUsageServerAuth) && !slices.Contains(eku, x509.ExtKeyUsageAny):
		f.add(ExtendedKeyUsage, "extended key usage is for neither TLS clients nor TLS servers")
	}
	if len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs)+len(c.EmailAddresses) == 0 {
		if _, ok := extension(c, oidSubjectAltName); !ok {
			f.warn(Name, "no subjectAltName; TLS peers look at nothing else")
		}
	}
	return f.issues
}

// CheckCA checks the certificate of an authority, by itself.
func CheckCA(c *x509.Certificate, now time.Time) []Issue {
	f := newFound(c)
	f.common(c, now)
	if c.Version != 3 {
		f.add(Version, "version %d; an authority has version 3", c.Version)
	}
	f.authority(c)
	return f.issues
}

func (f *found) authority(c *x509.Certificate) {
	ext, ok := extension(c, oidBasicConstraints)
	switch {
	case !ok || !c.BasicConstraintsValid:
		f.add(BasicConstraints, "no basicConstraints")
	case !c.IsCA:
		f.add(BasicConstraints, "basicConstraints say CA:FALSE")
	case !ext.Critical:
		f.add(BasicConstraints, "basicConstraints are not critical")
	}
	if c.KeyUsage&x509.KeyUsageCertSign == 0 {
		f.add(KeyUsage, "keyUsage lacks keyCertSign")
	}
	if len(c.RawSubject) <= 2 {
		f.add(Name, "an authority with an empty subject")
	}
	if len(c.SubjectKeyId) == 0 {
		f.warn(KeyIdentifier, "an authority without subjectKeyIdentifier")
	}
}

// common is what every certificate must fulfil.
func (f *found) common(c *x509.Certificate, now time.Time) {
	if n := c.SerialNumber; n.Sign() <= 0 || len(n.Bytes()) > maxSerial || len(n.Bytes()) == maxSerial && n.Bytes()[0]&0x80 != 0 {
		f.add(Serial, "serial number is not between 1 and %d octets", maxSerial)
	}
	switch {
	case c.NotAfter.Before(c.NotBefore):
		f.add(Expired, "it ends (%s) before it begins (%s)", stamp(c.NotAfter), stamp(c.NotBefore))
	case now.Before(c.NotBefore):
		f.add(NotYetValid, "not valid before %s", stamp(c.NotBefore))
	case now.After(c.NotAfter):
		f.add(Expired, "expired at %s", stamp(c.NotAfter))
	}
	f.algorithms(c)
	f.extensions(c)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (f *found) algorithms(c *x509.Certificate) {
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	default:
		f.add(SignatureAlgorithm, "signature algorithm %s; RSA or ECDSA with SHA-256, SHA-384 or SHA-512 is accepted", c.SignatureAlgorithm)
	}
	switch pub := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < minRSA || n > maxRSA {
			f.add(KeySize, "RSA key of %d bits; %d to %d are accepted", n, minRSA, maxRSA)
		}
		if pub.E < minExponent {
			f.add(KeySize, "RSA public exponent %d; it is at least %d", pub.E, minExponent)
		}
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() && pub.Curve != elliptic.P521() {
			f.add(KeySize, "curve %s; P-256, P-384 and P-521 are accepted", pub.Params().Name)
		}
	default:
		f.add(KeyAlgorithm, "key algorithm %s; RSA and ECDSA are accepted", c.PublicKeyAlgorithm)
	}
}

func (f *found) extensions(c *x509.Certificate) {
	for _, oid := range unhandled(c) {
		f.add(CriticalExtension, "unknown critical extension %s", oid)
	}
	for _, e := range c.Extensions {
		switch {
		case !e.Critical && e.Id.Equal(oidNameConstraints):
			f.add(Extension, "nameConstraints are not critical (RFC 5280 section 4.2.1.10)")
		case !e.Critical && (e.Id.Equal(oidPolicyConstraints) || e.Id.Equal(oidInhibitAnyPolicy)):
			// They are enforced all the same, so nothing is lost.
			f.warn(Extension, "extension %s is not critical and should be", e.Id)
		}
		if e.Id.Equal(oidNameConstraints) {
			if _, err := parseConstraints(e.Value); err != nil {
				f.add(NameConstraints, "%v", err)
			}
		}
	}
	if len(c.RawIssuer) <= 2 {
		f.add(Name, "empty issuer")
	}
	if san, ok := extension(c, oidSubjectAltName); len(c.RawSubject) <= 2 && (!ok || !san.Critical) {
		f.add(Name, "empty subject, and subjectAltName is missing or not critical")
	}
	self := selfIssued(c)
	switch {
	case len(c.AuthorityKeyId) == 0 && !self:
		f.warn(KeyIdentifier, "no authorityKeyIdentifier")
	case self && len(c.AuthorityKeyId) != 0 && len(c.SubjectKeyId) != 0 && string(c.AuthorityKeyId) != string(c.SubjectKeyId) && c.CheckSignatureFrom(c) == nil:
		f.add(KeyIdentifier, "self-signed, but the two key identifiers differ")
	}
}

// unhandled returns the critical extensions that neither crypto/x509 nor this
// package enforces.
func unhandled(c *x509.Certificate) []asn1.ObjectIdentifier {
	if len(c.UnhandledCriticalExtensions) == 0 {
		return nil
	}
	var out []asn1.ObjectIdentifier
	for _, oid := range c.UnhandledCriticalExtensions {
		if oid.Equal(oidNameConstraints) {
			if ext, ok := extension(c, oidNameConstraints); ok {
				if p, err := parseConstraints(ext.Value); err == nil && !p.other {
					continue
				}
			}
		}
		out = append(out, oid)
	}
	return out
}
