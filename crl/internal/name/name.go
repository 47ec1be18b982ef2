// Package name compares distinguished names the way that RFC 5280 section 7.1
// asks for: without regard to string type, case and runs of spaces. Comparing
// raw bytes would let a certificate authority hide a revocation from us by
// writing one name as PrintableString here and as UTF8String there.
package name

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the longest encoded name that is accepted, in bytes.
const MaxSize = 16 << 10

// Key identifies a name: two names are equal when their keys are.
type Key [sha256.Size]byte

var errName = errors.New("malformed distinguished name")

// KeyOf returns the key of a DER encoded Name.
func KeyOf(raw []byte) (Key, error) {
	c, err := canonical(raw)
	if err != nil {
		return Key{}, err
	}
	return sha256.Sum256(c), nil
}

// Equal reports whether two DER encoded names are the same. A malformed name
// equals itself at most.
func Equal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	ka, err := KeyOf(a)
	if err != nil {
		return false
	}
	kb, err := KeyOf(b)
	return err == nil && ka == kb
}

// Append returns the name raw with one more relative distinguished name, given
// as the content of its SET.
func Append(raw, rdn []byte) ([]byte, error) {
	in := cryptobyte.String(raw)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errName
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(seq)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(rdn) })
	})
	return b.Bytes()
}

func canonical(raw []byte) ([]byte, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("distinguished name of %d bytes is longer than %d", len(raw), MaxSize)
	}
	in := cryptobyte.String(raw)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errName
	}
	var out cryptobyte.Builder
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return nil, errName
		}
		var parts [][]byte
		for !set.Empty() {
			part, err := attribute(&set)
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
		slices.SortFunc(parts, bytes.Compare)
		out.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, p := range parts {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p) })
			}
		})
	}
	return out.Bytes()
}

// attribute reads one AttributeTypeAndValue and returns it in a form that is
// the same for all spellings of one value.
func attribute(set *cryptobyte.String) ([]byte, error) {
	var atv, oid, value cryptobyte.String
	var tag cbasn1.Tag
	if !set.ReadASN1(&atv, cbasn1.SEQUENCE) ||
		!atv.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
		!atv.ReadAnyASN1Element(&value, &tag) || !atv.Empty() {
		return nil, errName
	}
	text, ok := decode(value, tag)
	var b cryptobyte.Builder
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(oid) })
	if ok {
		b.AddUint8(1)
		b.AddBytes([]byte(fold(text)))
	} else {
		b.AddUint8(0)
		b.AddBytes(value)
	}
	return b.Bytes()
}

func decode(element cryptobyte.String, tag cbasn1.Tag) (string, bool) {
	var content cryptobyte.String
	if !element.ReadASN1(&content, tag) {
		return "", false
	}
	switch tag {
	case cbasn1.Tag(asn1.TagPrintableString), cbasn1.UTF8String, cbasn1.IA5String, cbasn1.Tag(asn1.TagNumericString), 26:
		return string(content), utf8.Valid(content)
	case cbasn1.T61String:
		// In practice Latin-1.
		r := make([]rune, len(content))
		for i, c := range content {
			r[i] = rune(c)
		}
		return string(r), true
	case cbasn1.Tag(asn1.TagBMPString):
		if len(content)%2 != 0 {
			return "", false
		}
		u := make([]uint16, len(content)/2)
		for i := range u {
			u[i] = uint16(content[2*i])<<8 | uint16(content[2*i+1])
		}
		return string(utf16.Decode(u)), true
	case 28: // UniversalString
		if len(content)%4 != 0 {
			return "", false
		}
		var b strings.Builder
		for ; len(content) > 0; content = content[4:] {
			b.WriteRune(rune(content[0])<<24 | rune(content[1])<<16 | rune(content[2])<<8 | rune(content[3]))
		}
		return b.String(), true
	}
	return "", false
}

// fold lowers case, drops outer spaces and makes each inner run of spaces one.
func fold(s string) string {
	var b strings.Builder
	for i, f := range strings.FieldsFunc(s, unicode.IsSpace) {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strings.ToLower(f))
	}
	return b.String()
}
