// Package dist reads the distribution points of certificates and lists and
// decides whether a list speaks for a certificate (RFC 5280 sections 4.2.1.13,
// 5.2.5 and 6.3.3). The structures are read raw, since crypto/x509 joins the
// points of a certificate into one flat list of addresses.
package dist

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mooringlib/mooring/crl/internal/name"
)

// Reasons is a set of revocation reasons, bit i standing for bit i of the
// ReasonFlags of RFC 5280 section 4.2.1.13.
type Reasons uint16

// AllReasons holds every reason that ReasonFlags can name, bit 1 to bit 8.
const AllReasons Reasons = 0x1fe

const (
	maxPoints = 64
	maxNames  = 64
	maxURI    = 2048
)

var errSyntax = errors.New("malformed distribution point")

// Point is one DistributionPoint.
type Point struct {
	// Names are the keys of the full names: "u" and an address, or "d" and the
	// key of a directory name. A relative name stands in Relative until Resolve.
	Names []string
	// URIs are the addresses among the names, in their order.
	URIs []string
	// Relative is the content of a nameRelativeToCRLIssuer.
	Relative []byte
	// HasName is set when the field distributionPoint is there.
	HasName bool
	// Reasons is what the point covers, AllReasons when it does not say.
	Reasons Reasons
	// Issuers are the directory names in cRLIssuer, DER encoded.
	Issuers [][]byte
}

// Scope is an IssuingDistributionPoint, or its absence: the zero value with
// Reasons set to AllReasons covers everything of the list's own issuer.
type Scope struct {
	Point
	OnlyUser, OnlyCA, OnlyAttribute, Indirect bool
}

// Points reads the content of a CRLDistributionPoints or FreshestCRL extension.
func Points(der []byte) ([]Point, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || seq.Empty() {
		return nil, errSyntax
	}
	var out []Point
	for !seq.Empty() {
		var dp cryptobyte.String
		if !seq.ReadASN1(&dp, asn1.SEQUENCE) {
			return nil, errSyntax
		}
		if len(out) == maxPoints {
			return nil, fmt.Errorf("more than %d distribution points", maxPoints)
		}
		p := Point{Reasons: AllReasons}
		var field cryptobyte.String
		var have bool
		if !dp.ReadOptionalASN1(&field, &have, asn1.Tag(0).ContextSpecific().Constructed()) {
			return nil, errSyntax
		}
		if have {
			if err := p.readName(field); err != nil {
				return nil, err
			}
		}
		if err := p.readReasons(&dp, 1); err != nil {
			return nil, err
		}
		if !dp.ReadOptionalASN1(&field, &have, asn1.Tag(2).ContextSpecific().Constructed()) {
			return nil, errSyntax
		}
		if have {
			issuers, err := DirectoryNames(field)
			if err != nil {
				return nil, err
			}
			p.Issuers = issuers
		}
		if !dp.Empty() || !p.HasName && len(p.Issuers) == 0 {
			return nil, errSyntax
		}
		out = append(out, p)
	}
	return out, nil
}

// ParseScope reads the content of an IssuingDistributionPoint extension.
func ParseScope(der []byte) (Scope, error) {
	s := Scope{Point: Point{Reasons: AllReasons}}
	in := cryptobyte.String(der)
	var seq, field cryptobyte.String
	var have bool
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() ||
		!seq.ReadOptionalASN1(&field, &have, asn1.Tag(0).ContextSpecific().Constructed()) {
		return s, errSyntax
	}
	if have {
		if err := s.readName(field); err != nil {
			return s, err
		}
	}
	if err := readFlag(&seq, 1, &s.OnlyUser); err != nil {
		return s, err
	}
	if err := readFlag(&seq, 2, &s.OnlyCA); err != nil {
		return s, err
	}
	if err := s.readReasons(&seq, 3); err != nil {
		return s, err
	}
	if err := readFlag(&seq, 4, &s.Indirect); err != nil {
		return s, err
	}
	if err := readFlag(&seq, 5, &s.OnlyAttribute); err != nil {
		return s, err
	}
	if !seq.Empty() {
		return s, errSyntax
	}
	only := 0
	for _, b := range []bool{s.OnlyUser, s.OnlyCA, s.OnlyAttribute} {
		if b {
			only++
		}
	}
	if only > 1 {
		return s, errors.New("issuing distribution point excludes every kind of certificate")
	}
	return s, nil
}

func (p *Point) readName(field cryptobyte.String) error {
	p.HasName = true
	var content cryptobyte.String
	var tag asn1.Tag
	if !field.ReadAnyASN1(&content, &tag) || !field.Empty() {
		return errSyntax
	}
	switch tag {
	case asn1.Tag(1).ContextSpecific().Constructed():
		if _, err := name.Append([]byte{0x30, 0}, content); err != nil {
			return err
		}
		p.Relative = slices.Clone([]byte(content))
		return nil
	case asn1.Tag(0).ContextSpecific().Constructed():
	default:
		return errSyntax
	}
	for n := 0; !content.Empty(); n++ {
		var v cryptobyte.String
		if !content.ReadAnyASN1(&v, &tag) {
			return errSyntax
		}
		if n == maxNames {
			return fmt.Errorf("more than %d names in a distribution point", maxNames)
		}
		switch tag {
		case asn1.Tag(6).ContextSpecific():
			if len(v) > maxURI {
				return fmt.Errorf("address of %d bytes in a distribution point is longer than %d", len(v), maxURI)
			}
			p.URIs = append(p.URIs, string(v))
			p.Names = append(p.Names, "u"+string(v))
		case asn1.Tag(4).ContextSpecific().Constructed():
			k, err := name.KeyOf(v)
			if err != nil {
				return err
			}
			p.Names = append(p.Names, "d"+string(k[:]))
		default:
			// Other forms of name are compared byte for byte.
			p.Names = append(p.Names, string([]byte{'o', byte(tag)})+string(v))
		}
	}
	return nil
}

// Resolve returns the names of the point, a relative one made whole with the
// DER encoded name of the list's issuer.
func (p *Point) Resolve(issuer []byte) []string {
	if p.Relative == nil {
		return p.Names
	}
	full, err := name.Append(issuer, p.Relative)
	if err != nil {
		return nil
	}
	k, err := name.KeyOf(full)
	if err != nil {
		return nil
	}
	return []string{"d" + string(k[:])}
}

// DirectoryNames reads the directory names of a GeneralNames content. Other
// forms of name are passed over; no directory name at all is an error.
func DirectoryNames(content []byte) ([][]byte, error) {
	in := cryptobyte.String(content)
	var out [][]byte
	for n := 0; !in.Empty(); n++ {
		var v cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1(&v, &tag) || n == maxNames {
			return nil, errSyntax
		}
		if tag == asn1.Tag(4).ContextSpecific().Constructed() {
			if _, err := name.KeyOf(v); err != nil {
				return nil, err
			}
			out = append(out, slices.Clone([]byte(v)))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("issuer is given without a directory name")
	}
	return out, nil
}

func (p *Point) readReasons(in *cryptobyte.String, tag asn1.Tag) error {
	var field cryptobyte.String
	var have bool
	if !in.ReadOptionalASN1(&field, &have, tag.ContextSpecific()) {
		return errSyntax
	}
	if !have {
		return nil
	}
	if len(field) < 2 || len(field) > 3 || field[0] > 7 {
		return errSyntax
	}
	p.Reasons = 0
	for i := range (len(field)-1)*8 - int(field[0]) {
		if field[1+i/8]&(0x80>>(i%8)) != 0 {
			p.Reasons |= 1 << i
		}
	}
	p.Reasons &= AllReasons
	return nil
}

func readFlag(in *cryptobyte.String, tag asn1.Tag, out *bool) error {
	var field cryptobyte.String
	var have bool
	if !in.ReadOptionalASN1(&field, &have, tag.ContextSpecific()) {
		return errSyntax
	}
	if have {
		if len(field) != 1 || field[0] != 0 && field[0] != 0xff {
			return errSyntax
		}
		*out = field[0] == 0xff
	}
	return nil
}

// Subject is what a scope is asked about.
type Subject struct {
	// CA is set when the basic constraints of the certificate say so.
	CA bool
	// Issuer is the DER encoded name of the certificate's issuer.
	Issuer []byte
}

// Covers decides whether a list with this scope and the DER encoded issuer name
// listIssuer speaks for a certificate through its distribution point p (RFC
// 5280 section 6.3.3 step b). It returns the reasons that are covered, or why
// it does not speak for it.
func (s *Scope) Covers(listIssuer []byte, p *Point, sub Subject) (Reasons, string) {
	if len(p.Issuers) > 0 {
		if !slices.ContainsFunc(p.Issuers, func(n []byte) bool { return name.Equal(n, listIssuer) }) {
			return 0, "the distribution point names another list issuer"
		}
		if !name.Equal(listIssuer, sub.Issuer) && !s.Indirect {
			return 0, "the list of another issuer is not marked as indirect"
		}
	} else if !name.Equal(listIssuer, sub.Issuer) {
		return 0, "the list is of another issuer"
	}
	if s.HasName {
		var want []string
		if p.HasName {
			want = p.Resolve(listIssuer)
		} else {
			for _, n := range p.Issuers {
				if k, err := name.KeyOf(n); err == nil {
					want = append(want, "d"+string(k[:]))
				}
			}
		}
		have := s.Resolve(listIssuer)
		if !slices.ContainsFunc(want, func(n string) bool { return slices.Contains(have, n) }) {
			return 0, "the list is for another distribution point"
		}
	}
	switch {
	case s.OnlyUser && sub.CA:
		return 0, "the list is for end entity certificates only"
	case s.OnlyCA && !sub.CA:
		return 0, "the list is for authority certificates only"
	case s.OnlyAttribute:
		return 0, "the list is for attribute certificates only"
	}
	r := p.Reasons & s.Reasons
	if r == 0 {
		return 0, "the list covers none of the reasons of the distribution point"
	}
	return r, ""
}

// Implied returns the distribution point that stands for "the list of my
// issuer" (RFC 5280 section 6.3.3, last step).
func Implied(issuer name.Key) Point {
	return Point{Reasons: AllReasons, HasName: true, Names: []string{"d" + string(issuer[:])}}
}
