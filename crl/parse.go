package crl

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mooringlib/mooring/crl/internal/dist"
)

// pointsDER and maskedDER are the OBJECT IDENTIFIER of the distribution points,
// and one of the same length that nobody uses.
var (
	pointsDER = []byte{6, 3, 0x55, 0x1d, 31}
	maskedDER = []byte{6, 3, 0x55, 0x1d, 127}
	maskedOID = asn1.ObjectIdentifier{2, 5, 29, 127}
)

// ParseCertificate is [x509.ParseCertificate] that also accepts certificates
// whose distribution points are names relative to the list's issuer (RFC 5280
// section 4.2.1.13), which crypto/x509 refuses.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	cert, first := x509.ParseCertificate(der)
	if first == nil {
		return cert, nil
	}
	tbs, at, value := findPoints(der)
	if at < 0 {
		return nil, first
	}
	if _, err := dist.Points(value); err != nil {
		return nil, first
	}
	// Parse a copy in which the extension has a number that means nothing, then
	// put the true bytes back: signatures are checked over those.
	masked := bytes.Clone(der)
	copy(masked[at:], maskedDER)
	cert, err := x509.ParseCertificate(masked)
	if err != nil {
		return nil, errors.Join(first, err)
	}
	cert.Raw = bytes.Clone(der)
	cert.RawTBSCertificate = bytes.Clone(tbs)
	for i := range cert.Extensions {
		if cert.Extensions[i].Id.Equal(maskedOID) {
			cert.Extensions[i].Id = slices.Clone(oidPoints)
		}
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions,
		func(id asn1.ObjectIdentifier) bool { return id.Equal(maskedOID) })
	return cert, nil
}

// findPoints returns the signed part of a certificate, where in der the
// identifier of the distribution points stands, and their value; at is -1 when
// there are none.
func findPoints(der []byte) (tbs []byte, at int, value []byte) {
	in := cryptobyte.String(der)
	var cert, signed, exts cryptobyte.String
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, -1, nil
	}
	whole := cert
	if !cert.ReadASN1(&signed, cbasn1.SEQUENCE) {
		return nil, -1, nil
	}
	tbs = whole[:len(whole)-len(cert)]
	for !signed.Empty() {
		var field cryptobyte.String
		var tag cbasn1.Tag
		if !signed.ReadAnyASN1(&field, &tag) {
			return nil, -1, nil
		}
		if tag == cbasn1.Tag(3).ContextSpecific().Constructed() {
			exts = field
		}
	}
	var seq cryptobyte.String
	if !exts.ReadASN1(&seq, cbasn1.SEQUENCE) {
		return nil, -1, nil
	}
	for !seq.Empty() {
		var e, oid, content cryptobyte.String
		if !seq.ReadASN1(&e, cbasn1.SEQUENCE) {
			return nil, -1, nil
		}
		id := e
		if !e.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) || !bytes.HasPrefix(id, pointsDER) {
			continue
		}
		if e.PeekASN1Tag(cbasn1.BOOLEAN) && !e.SkipASN1(cbasn1.BOOLEAN) || !e.ReadASN1(&content, cbasn1.OCTET_STRING) {
			return nil, -1, nil
		}
		// id is a part of der, so that the capacities tell its offset.
		return tbs, cap(der) - cap(id), content
	}
	return tbs, -1, nil
}
