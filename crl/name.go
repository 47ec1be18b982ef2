package crl

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
)

var shortNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.10": "O", "2.5.4.11": "OU", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
}

// oneLine writes a name like "/C=US/O=Example/CN=CA 1", the form that the
// audit record has.
func oneLine(der []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
		return fmt.Sprintf("%.32x", der)
	}
	var b strings.Builder
	for _, rdn := range seq {
		for i, a := range rdn {
			label := a.Type.String()
			if s, ok := shortNames[label]; ok {
				label = s
			}
			sep := "/"
			if i > 0 {
				sep = "+"
			}
			fmt.Fprintf(&b, "%s%s=%v", sep, label, a.Value)
		}
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '?'
		}
		return r
	}, fmt.Sprintf("%.400s", b.String()))
}

// commonName returns the common name in a name, or its one line.
func commonName(der []byte) string {
	line := oneLine(der)
	if _, cn, ok := strings.Cut(line, "/CN="); ok {
		return strings.SplitN(cn, "/", 2)[0]
	}
	return line
}
