package certtext

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// form is the name of an extension and the way to write its content. write
// returns nil when the content is not well-formed.
type form struct {
	name  string
	write func(der cryptobyte.String) []string
}

func forms() map[string]form {
	return map[string]form{
		"2.5.29.14":               {"X509v3 Subject Key Identifier", keyIdentifier},
		"2.5.29.15":               {"X509v3 Key Usage", keyUsage},
		"2.5.29.17":               {"X509v3 Subject Alternative Name", altName},
		"2.5.29.18":               {"X509v3 Issuer Alternative Name", altName},
		"2.5.29.19":               {"X509v3 Basic Constraints", basicConstraints},
		"2.5.29.30":               {"X509v3 Name Constraints", nameConstraints},
		"2.5.29.31":               {"X509v3 CRL Distribution Points", distributionPoints},
		"2.5.29.32":               {"X509v3 Certificate Policies", policies},
		"2.5.29.35":               {"X509v3 Authority Key Identifier", authorityKey},
		"2.5.29.36":               {"X509v3 Policy Constraints", policyConstraints},
		"2.5.29.37":               {"X509v3 Extended Key Usage", extendedKeyUsage},
		"2.5.29.46":               {"X509v3 Freshest CRL", distributionPoints},
		"2.5.29.54":               {"X509v3 Inhibit Any Policy", integerOnly},
		"1.3.6.1.5.5.7.1.1":       {"Authority Information Access", access},
		"1.3.6.1.5.5.7.1.11":      {"Subject Information Access", access},
		"1.3.6.1.5.5.7.1.24":      {"TLS Feature", tlsFeature},
		"1.3.6.1.4.1.11129.2.4.2": {"CT Precertificate SCTs", nil},
		"2.5.29.33":               {"X509v3 Policy Mappings", nil},
	}
}

func extension(e pkix.Extension) Extension {
	out := Extension{Name: e.Id.String(), OID: e.Id.String(), Critical: e.Critical}
	f, ok := forms()[out.OID]
	if ok {
		out.Name = f.name
		if f.write != nil {
			out.Lines = f.write(e.Value)
		}
	}
	if out.Lines == nil {
		out.Lines = printable(e.Value)
	}
	return out
}

// printable is what OpenSSL does with extensions that it does not know: bytes
// that do not print become points.
func printable(der []byte) []string {
	b := []byte(strings.Clone(string(der)))
	for i, c := range b {
		if c < ' ' && c != '\n' && c != '\r' || c > '~' {
			b[i] = '.'
		}
	}
	return strings.Split(string(b), "\n")
}

func keyIdentifier(in cryptobyte.String) []string {
	var id cryptobyte.String
	if !in.ReadASN1(&id, casn1.OCTET_STRING) {
		return nil
	}
	return []string{hexUpper(id)}
}

func authorityKey(in cryptobyte.String) []string {
	var seq, id, names, serial cryptobyte.String
	var hasID, hasNames, hasSerial bool
	if !in.ReadASN1(&seq, casn1.SEQUENCE) ||
		!seq.ReadOptionalASN1(&id, &hasID, casn1.Tag(0).ContextSpecific()) ||
		!seq.ReadOptionalASN1(&names, &hasNames, casn1.Tag(1).ContextSpecific().Constructed()) ||
		!seq.ReadOptionalASN1(&serial, &hasSerial, casn1.Tag(2).ContextSpecific()) {
		return nil
	}
	out := []string{}
	if hasID {
		out = append(out, prefixed("keyid:", hexUpper(id), hasNames || hasSerial))
	}
	if hasNames {
		out = append(out, generalNames(names)...)
	}
	if hasSerial {
		out = append(out, "serial:"+hexUpper(serial))
	}
	return out
}

// prefixed writes the prefix only where OpenSSL does: beside other fields.
func prefixed(prefix, s string, with bool) string {
	if with {
		return prefix + s
	}
	return s
}

func bits(in cryptobyte.String, names []string) []string {
	var s asn1.BitString
	if !in.ReadASN1BitString(&s) {
		return nil
	}
	var out []string
	for i, n := range names {
		if s.At(i) == 1 {
			out = append(out, n)
		}
	}
	return []string{strings.Join(out, ", ")}
}

func keyUsage(in cryptobyte.String) []string {
	return bits(in, []string{"Digital Signature", "Non Repudiation", "Key Encipherment", "Data Encipherment", "Key Agreement",
		"Certificate Sign", "CRL Sign", "Encipher Only", "Decipher Only"})
}

func basicConstraints(in cryptobyte.String) []string {
	var seq cryptobyte.String
	var ca bool
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	if seq.PeekASN1Tag(casn1.BOOLEAN) && !seq.ReadASN1Boolean(&ca) {
		return nil
	}
	s := "CA:FALSE"
	if ca {
		s = "CA:TRUE"
	}
	if !seq.Empty() {
		var n int
		if !seq.ReadASN1Integer(&n) {
			return nil
		}
		s += fmt.Sprintf(", pathlen:%d", n)
	}
	return []string{s}
}

func extendedKeyUsage(in cryptobyte.String) []string {
	names := map[string]string{
		"1.3.6.1.5.5.7.3.1": "TLS Web Server Authentication", "1.3.6.1.5.5.7.3.2": "TLS Web Client Authentication",
		"1.3.6.1.5.5.7.3.3": "Code Signing", "1.3.6.1.5.5.7.3.4": "E-mail Protection", "1.3.6.1.5.5.7.3.8": "Time Stamping",
		"1.3.6.1.5.5.7.3.9": "OCSP Signing", "2.5.29.37.0": "Any Extended Key Usage", "1.3.6.1.5.5.7.3.17": "ipsec Internet Key Exchange",
	}
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	var out []string
	for !seq.Empty() {
		var oid asn1.ObjectIdentifier
		if !seq.ReadASN1ObjectIdentifier(&oid) {
			return nil
		}
		n := names[oid.String()]
		if n == "" {
			n = oid.String()
		}
		out = append(out, n)
	}
	return []string{strings.Join(out, ", ")}
}

func altName(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	return []string{strings.Join(generalNames(seq), ", ")}
}

// generalNames writes a list of GeneralName (RFC 5280 section 4.2.1.6).
func generalNames(seq cryptobyte.String) []string {
	out := []string{}
	for !seq.Empty() {
		var v cryptobyte.String
		var tag casn1.Tag
		if !seq.ReadAnyASN1(&v, &tag) {
			return append(out, "<invalid>")
		}
		out = append(out, generalName(tag, v))
	}
	return out
}

func generalName(tag casn1.Tag, v cryptobyte.String) string {
	switch tag {
	case 0x81:
		return "email:" + clean(string(v))
	case 0x82:
		return "DNS:" + clean(string(v))
	case 0x86:
		return "URI:" + clean(string(v))
	case 0xa4:
		return "DirName:" + slashes(v)
	case 0x87:
		return "IP Address:" + address(v)
	case 0x88:
		// An implicit tag: the identifier is put back in front of it.
		var oid asn1.ObjectIdentifier
		whole := cryptobyte.String(append([]byte{0x06, byte(len(v))}, v...))
		if len(v) < 128 && whole.ReadASN1ObjectIdentifier(&oid) {
			return "Registered ID:" + oid.String()
		}
	case 0xa0:
		return otherName(v)
	}
	return "<unsupported>"
}

func otherName(v cryptobyte.String) string {
	var oid asn1.ObjectIdentifier
	var inner, text cryptobyte.String
	var tag casn1.Tag
	if v.ReadASN1ObjectIdentifier(&oid) && v.ReadASN1(&inner, casn1.Tag(0).ContextSpecific().Constructed()) && inner.ReadAnyASN1(&text, &tag) &&
		(tag == casn1.UTF8String || tag == casn1.IA5String) {
		return fmt.Sprintf("othername: %s::%s", oid, clean(string(text)))
	}
	return "othername: <unsupported>"
}

// address writes IPv6 addresses in eight groups, as OpenSSL does.
func address(b []byte) string {
	switch len(b) {
	case 4:
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	case 16:
		parts := make([]string, 8)
		for i := range parts {
			parts[i] = fmt.Sprintf("%X", int(b[2*i])<<8|int(b[2*i+1]))
		}
		return strings.Join(parts, ":")
	}
	return "<invalid>"
}

func nameConstraints(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	out := []string{}
	for tag, label := range []string{"Permitted:", "Excluded:"} {
		var list cryptobyte.String
		var has bool
		if !seq.ReadOptionalASN1(&list, &has, casn1.Tag(tag).ContextSpecific().Constructed()) {
			return nil
		}
		if !has {
			continue
		}
		out = append(out, label)
		for !list.Empty() {
			var subtree, v cryptobyte.String
			var tag casn1.Tag
			if !list.ReadASN1(&subtree, casn1.SEQUENCE) || !subtree.ReadAnyASN1(&v, &tag) {
				return nil
			}
			s := generalName(tag, v)
			if tag == 0xa4 {
				s = "DirName:" + Name(v)
			}
			if tag == 0x87 {
				half := len(v) / 2
				s = "IP:" + address(v[:half]) + "/" + address(v[half:])
			}
			out = append(out, "  "+s)
		}
	}
	return out
}

func distributionPoints(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	out := []string{}
	for !seq.Empty() {
		var point, name, full, reasons, issuer cryptobyte.String
		var has, hasReasons, hasIssuer bool
		if !seq.ReadASN1(&point, casn1.SEQUENCE) || !point.ReadOptionalASN1(&name, &has, casn1.Tag(0).ContextSpecific().Constructed()) ||
			!point.ReadOptionalASN1(&reasons, &hasReasons, casn1.Tag(1).ContextSpecific()) ||
			!point.ReadOptionalASN1(&issuer, &hasIssuer, casn1.Tag(2).ContextSpecific().Constructed()) || hasReasons {
			return nil
		}
		if has {
			if !name.ReadASN1(&full, casn1.Tag(0).ContextSpecific().Constructed()) {
				return nil
			}
			out = append(out, "Full Name:")
			for _, n := range generalNames(full) {
				out = append(out, "  "+n)
			}
		}
		if hasIssuer {
			out = append(out, "CRL Issuer:")
			for _, n := range generalNames(issuer) {
				out = append(out, "  "+n)
			}
		}
	}
	return out
}

func access(in cryptobyte.String) []string {
	names := map[string]string{"1.3.6.1.5.5.7.48.1": "OCSP", "1.3.6.1.5.5.7.48.2": "CA Issuers", "1.3.6.1.5.5.7.48.5": "CA Repository"}
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	out := []string{}
	for !seq.Empty() {
		var one, v cryptobyte.String
		var oid asn1.ObjectIdentifier
		var tag casn1.Tag
		if !seq.ReadASN1(&one, casn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) || !one.ReadAnyASN1(&v, &tag) {
			return nil
		}
		n := names[oid.String()]
		if n == "" {
			n = oid.String()
		}
		out = append(out, n+" - "+generalName(tag, v))
	}
	return out
}

// policies writes identifiers and where their practice statements are.
func policies(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	out := []string{}
	for !seq.Empty() {
		var one cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !seq.ReadASN1(&one, casn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) {
			return nil
		}
		n := oid.String()
		if n == "2.5.29.32.0" {
			n = "X509v3 Any Policy"
		}
		out = append(out, "Policy: "+n)
		out = append(out, qualifiers(one)...)
	}
	return out
}

// qualifiers writes the pointers to practice statements.
func qualifiers(one cryptobyte.String) []string {
	var out []string
	var list cryptobyte.String
	if one.Empty() || !one.ReadASN1(&list, casn1.SEQUENCE) {
		return nil
	}
	for !list.Empty() {
		var q, uri cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1(&q, casn1.SEQUENCE) || !q.ReadASN1ObjectIdentifier(&oid) {
			return out
		}
		if oid.String() == "1.3.6.1.5.5.7.2.1" && q.ReadASN1(&uri, casn1.IA5String) {
			out = append(out, "  CPS: "+clean(string(uri)))
		} else {
			out = append(out, "  "+oid.String())
		}
	}
	return out
}

func policyConstraints(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	var out []string
	for tag, label := range []string{"Require Explicit Policy", "Inhibit Policy Mapping"} {
		t := casn1.Tag(tag).ContextSpecific()
		if !seq.PeekASN1Tag(t) {
			continue
		}
		var n int64
		if !seq.ReadASN1Int64WithTag(&n, t) {
			return nil
		}
		out = append(out, fmt.Sprintf("%s:%d", label, n))
	}
	return []string{strings.Join(out, ", ")}
}

func integerOnly(in cryptobyte.String) []string {
	var n int
	if !in.ReadASN1Integer(&n) {
		return nil
	}
	return []string{fmt.Sprint(n)}
}

func tlsFeature(in cryptobyte.String) []string {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) {
		return nil
	}
	var out []string
	for !seq.Empty() {
		var n int
		if !seq.ReadASN1Integer(&n) {
			return nil
		}
		switch n {
		case 5:
			out = append(out, "status_request")
		case 17:
			out = append(out, "status_request_v2")
		default:
			out = append(out, fmt.Sprint(n))
		}
	}
	return []string{strings.Join(out, ", ")}
}
