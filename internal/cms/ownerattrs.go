package cms

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The owner's attributes stand under an arc of their own, made from the UUID b1e6f159-42d9-40f3-8e4a-16fb35f0ce12 as
// ITU-T X.667 describes (2.25 and the UUID as one number):
//
//	2.25.236472478664102717955965976343634562578.1   target serial number, UTF8String
//	2.25.236472478664102717955965976343634562578.2   counter, INTEGER (1..2^64-1)
const ownerArc = "2.25.236472478664102717955965976343634562578"

// OwnerClaims is what the owner of a device says about a configuration beside its text. Both are signed attributes of
// the SignedData that holds the configuration, so that nobody but the signer can change or move them.
type OwnerClaims struct {
	// Serial names the one device that the configuration is for; empty when it is for any device that can decrypt it.
	// 1 to 128 bytes of UTF-8 without control characters.
	Serial string
	// Counter orders the configurations of a device: a device that keeps the highest counter it has installed can refuse
	// an older configuration. 0 when there is none.
	Counter uint64
}

// Attributes encodes the claims for SignConfig.Attributes. Claims without a value give no attribute.
func (c OwnerClaims) Attributes() ([]Attribute, error) {
	var out []Attribute
	if c.Serial != "" {
		if err := checkSerial(c.Serial); err != nil {
			return nil, err
		}
		out = append(out, Attribute{Type: ownerOID("1"), Value: tlv(byte(asn1.TagUTF8String), []byte(c.Serial))})
	}
	if c.Counter != 0 {
		value, err := asn1.Marshal(new(big.Int).SetUint64(c.Counter))
		if err != nil {
			return nil, fmt.Errorf("cms: encoding counter: %w", err)
		}
		out = append(out, Attribute{Type: ownerOID("2"), Value: value})
	}
	return out, nil
}

// ParseOwnerClaims reads the claims from the attributes of a verified signature (Signed.Attributes). A claim that is
// not there has its zero value; one that is there and not in order is an error.
func ParseOwnerClaims(attrs []Attribute) (OwnerClaims, error) {
	var c OwnerClaims
	for _, a := range attrs {
		value := cryptobyte.String(a.Value)
		switch {
		case a.Type.Equal(ownerOID("1")):
			var serial cryptobyte.String
			if !value.ReadASN1(&serial, cbasn1.UTF8String) || !value.Empty() {
				return OwnerClaims{}, malformed("target serial number is not a UTF8String")
			}
			if err := checkSerial(string(serial)); err != nil {
				return OwnerClaims{}, err
			}
			c.Serial = string(serial)
		case a.Type.Equal(ownerOID("2")):
			if !value.ReadASN1Integer(&c.Counter) || !value.Empty() || c.Counter == 0 {
				return OwnerClaims{}, malformed("counter is not an INTEGER from 1 to 2^64-1")
			}
		}
	}
	return c, nil
}

func checkSerial(s string) error {
	if s == "" || len(s) > maxSerial || !utf8.ValidString(s) {
		return malformed("target serial number %s: want 1 to %d bytes of UTF-8", quote(s), maxSerial)
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return malformed("target serial number %s: control character", quote(s))
		}
	}
	return nil
}

func ownerOID(leaf string) x509.OID {
	// The text is a constant of this file, so that parsing it cannot fail.
	oid, _ := x509.ParseOID(ownerArc + "." + leaf)
	return oid
}
