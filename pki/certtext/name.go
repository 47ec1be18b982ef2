package certtext

import (
	"encoding/asn1"
	"fmt"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Name writes a DER name as OpenSSL does on one line: "C = US, CN = router".
func Name(der []byte) string {
	return join(der, ", ", " + ", func(label, value string) string { return label + " = " + quote(value) })
}

// slashes writes a DER name in the older form "/C=US/CN=router".
func slashes(der []byte) string {
	return join(der, "", "+", func(label, value string) string { return "/" + label + "=" + value })
}

func join(der []byte, between, within string, write func(label, value string) string) string {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return "<invalid>"
	}
	var rdns []string
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, casn1.SET) {
			return "<invalid>"
		}
		var avas []string
		for !set.Empty() {
			var ava, value cryptobyte.String
			var oid asn1.ObjectIdentifier
			var tag casn1.Tag
			if !set.ReadASN1(&ava, casn1.SEQUENCE) || !ava.ReadASN1ObjectIdentifier(&oid) || !ava.ReadAnyASN1(&value, &tag) {
				return "<invalid>"
			}
			avas = append(avas, write(label(oid), text(tag, value)))
		}
		rdns = append(rdns, strings.Join(avas, within))
	}
	return strings.Join(rdns, between)
}

func label(oid asn1.ObjectIdentifier) string {
	names := map[string]string{
		"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "street",
		"2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.17": "postalCode", "2.5.4.42": "GN", "2.5.4.46": "dnQualifier",
		"2.5.4.97": "organizationIdentifier", "1.2.840.113549.1.9.1": "emailAddress", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
	}
	if n := names[oid.String()]; n != "" {
		return n
	}
	return oid.String()
}

func text(tag casn1.Tag, value []byte) string {
	switch tag {
	case casn1.PrintableString, casn1.UTF8String, casn1.IA5String, casn1.Tag(20), casn1.Tag(18):
		return clean(string(value))
	case casn1.Tag(30): // BMPString
		u := make([]uint16, len(value)/2)
		for i := range u {
			u[i] = uint16(value[2*i])<<8 | uint16(value[2*i+1])
		}
		return clean(string(utf16.Decode(u)))
	}
	return fmt.Sprintf("#%X", value)
}

// clean keeps a name on its line.
func clean(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "?") {
		if r < ' ' || r == 0x7f {
			fmt.Fprintf(&b, "\\%02X", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// quote puts a value into quotes where RFC 2253 would escape something in it.
func quote(s string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
	if strings.ContainsAny(s, `,+<>;`) || strings.HasPrefix(s, "#") || strings.HasPrefix(s, " ") || strings.HasSuffix(s, " ") {
		return `"` + escaped + `"`
	}
	return escaped
}
