package verify

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The string types of a DirectoryString that cryptobyte does not name.
const (
	tagTeletex   = casn1.Tag(20)
	tagUniversal = casn1.Tag(28)
	tagBMP       = casn1.Tag(30)
)

// rdns splits a DER name into its relative names, each in a form in which equal
// names have equal bytes (RFC 5280 section 7.1, RFC 4518). ok is false when the
// name is not well-formed.
func rdns(der []byte) (out [][]byte, ok bool) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) || !in.Empty() {
		return nil, false
	}
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, casn1.SET) {
			return nil, false
		}
		var avas [][]byte
		for !set.Empty() {
			ava, ok := canonicalAVA(&set)
			if !ok {
				return nil, false
			}
			avas = append(avas, ava)
		}
		slices.SortFunc(avas, bytes.Compare)
		var b cryptobyte.Builder
		b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(avas, nil)) })
		der, err := b.Bytes()
		if err != nil {
			return nil, false
		}
		out = append(out, der)
	}
	return out, true
}

func canonicalAVA(set *cryptobyte.String) ([]byte, bool) {
	var ava, oid, value cryptobyte.String
	var tag casn1.Tag
	if !set.ReadASN1(&ava, casn1.SEQUENCE) || !ava.ReadASN1(&oid, casn1.OBJECT_IDENTIFIER) ||
		!ava.ReadAnyASN1(&value, &tag) || !ava.Empty() {
		return nil, false
	}
	text, isText := directoryString(tag, value)
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oid) })
		if isText {
			tag, value = casn1.UTF8String, cryptobyte.String(strings.ToLower(strings.Join(strings.Fields(text), " ")))
		}
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(value) })
	})
	der, err := b.Bytes()
	return der, err == nil
}

// directoryString decodes the string types that are compared as text. Others
// are compared byte by byte.
func directoryString(tag casn1.Tag, value []byte) (string, bool) {
	switch tag {
	case casn1.PrintableString, casn1.UTF8String, casn1.IA5String:
		return string(value), true
	case tagTeletex:
		// T.61 is used as Latin-1 in practice.
		r := make([]rune, len(value))
		for i, c := range value {
			r[i] = rune(c)
		}
		return string(r), true
	case tagBMP:
		if len(value)%2 != 0 {
			return "", false
		}
		u := make([]uint16, len(value)/2)
		for i := range u {
			u[i] = uint16(value[2*i])<<8 | uint16(value[2*i+1])
		}
		return string(utf16.Decode(u)), true
	case tagUniversal:
		if len(value)%4 != 0 {
			return "", false
		}
		r := make([]rune, len(value)/4)
		for i := range r {
			r[i] = rune(value[4*i])<<24 | rune(value[4*i+1])<<16 | rune(value[4*i+2])<<8 | rune(value[4*i+3])
		}
		return string(r), true
	}
	return "", false
}

// canonical returns a name in the form in which equal names have equal bytes,
// or the name as it is when it is not well-formed.
func canonical(der []byte) []byte {
	parts, ok := rdns(der)
	if !ok {
		return der
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(parts, nil)) })
	out, err := b.Bytes()
	if err != nil {
		return der
	}
	return out
}

func selfIssued(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) || bytes.Equal(canonical(c.RawIssuer), canonical(c.RawSubject))
}
