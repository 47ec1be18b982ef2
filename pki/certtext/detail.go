package certtext

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" // a fingerprint for people
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"
)

// Detail is a certificate taken apart. Hex is written in pairs with colons, as
// OpenSSL does.
type Detail struct {
	Version            int         `json:"version"`
	Serial             string      `json:"serial"`
	SignatureAlgorithm string      `json:"signature_algorithm"`
	Issuer             string      `json:"issuer"`
	NotBefore          time.Time   `json:"not_before"`
	NotAfter           time.Time   `json:"not_after"`
	Subject            string      `json:"subject"`
	Key                Key         `json:"public_key"`
	Extensions         []Extension `json:"extensions"`
	Signature          string      `json:"signature"`
	FingerprintSHA1    string      `json:"fingerprint_sha1"`
	FingerprintSHA256  string      `json:"fingerprint_sha256"`

	params   []string // lines that follow a PSS algorithm
	negative bool
}

// Key is a public key. Modulus and Exponent are of RSA; Point, OID and Curve of
// ECC.
type Key struct {
	Algorithm string `json:"algorithm"`
	Bits      int    `json:"bits,omitempty"`
	Modulus   string `json:"modulus,omitempty"`
	Exponent  int    `json:"exponent,omitempty"`
	Point     string `json:"point,omitempty"`
	OID       string `json:"oid,omitempty"`
	Curve     string `json:"curve,omitempty"`
}

// Extension is one extension, with its content in lines.
type Extension struct {
	Name     string   `json:"name"`
	OID      string   `json:"oid"`
	Critical bool     `json:"critical"`
	Lines    []string `json:"lines"`
}

// New takes a certificate apart. It never fails: what has no form of its own is
// given in hex.
func New(c *x509.Certificate) Detail {
	sum1, sum256 := sha1.Sum(c.Raw), sha256.Sum256(c.Raw)
	d := Detail{
		Version: c.Version, Serial: hexLower(c.SerialNumber.Bytes()), negative: c.SerialNumber.Sign() < 0,
		Issuer: Name(c.RawIssuer), Subject: Name(c.RawSubject),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Key: key(c),
		Signature:       hexLower(c.Signature),
		FingerprintSHA1: hexUpper(sum1[:]), FingerprintSHA256: hexUpper(sum256[:]),
	}
	d.SignatureAlgorithm, d.params = algorithm(c)
	for _, e := range c.Extensions {
		d.Extensions = append(d.Extensions, extension(e))
	}
	return d
}

// algorithm names the signature algorithm as OpenSSL does.
func algorithm(c *x509.Certificate) (string, []string) {
	pss := func(hash string, salt int) (string, []string) {
		return "rsassaPss", []string{"Hash Algorithm: " + hash, "Mask Algorithm: mgf1 with " + hash, fmt.Sprintf(" Salt Length: 0x%02X", salt), "Trailer Field: 0x01 (default)"}
	}
	names := map[x509.SignatureAlgorithm]string{
		x509.SHA1WithRSA: "sha1WithRSAEncryption", x509.SHA256WithRSA: "sha256WithRSAEncryption", x509.SHA384WithRSA: "sha384WithRSAEncryption",
		x509.SHA512WithRSA: "sha512WithRSAEncryption", x509.ECDSAWithSHA1: "ecdsa-with-SHA1", x509.ECDSAWithSHA256: "ecdsa-with-SHA256",
		x509.ECDSAWithSHA384: "ecdsa-with-SHA384", x509.ECDSAWithSHA512: "ecdsa-with-SHA512", x509.PureEd25519: "ED25519", x509.MD5WithRSA: "md5WithRSAEncryption",
	}
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSAPSS:
		return pss("sha256", saltLength(c, 32))
	case x509.SHA384WithRSAPSS:
		return pss("sha384", saltLength(c, 48))
	case x509.SHA512WithRSAPSS:
		return pss("sha512", saltLength(c, 64))
	}
	if n := names[c.SignatureAlgorithm]; n != "" {
		return n, nil
	}
	return c.SignatureAlgorithm.String(), nil
}

// saltLength reads RSASSA-PSS-params (RFC 4055 section 3.1). crypto/x509 takes
// only salts as long as the hash, so the size is known when it is not read.
func saltLength(c *x509.Certificate, size int) int {
	var outer struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.Raw, &outer); err != nil {
		return size
	}
	var params struct {
		Hash    asn1.RawValue `asn1:"optional,explicit,tag:0"`
		MGF     asn1.RawValue `asn1:"optional,explicit,tag:1"`
		Salt    int           `asn1:"optional,explicit,tag:2,default:20"`
		Trailer int           `asn1:"optional,explicit,tag:3,default:1"`
	}
	if _, err := asn1.Unmarshal(outer.Alg.Parameters.FullBytes, &params); err != nil {
		return size
	}
	return params.Salt
}

func key(c *x509.Certificate) Key {
	switch pub := c.PublicKey.(type) {
	case *rsa.PublicKey:
		n := pub.N.Bytes()
		if len(n) > 0 && n[0]&0x80 != 0 {
			n = append([]byte{0}, n...)
		}
		return Key{Algorithm: "rsaEncryption", Bits: pub.N.BitLen(), Modulus: hexLower(n), Exponent: pub.E}
	case *ecdsa.PublicKey:
		k := Key{Algorithm: "id-ecPublicKey", Bits: pub.Params().BitSize}
		switch pub.Curve {
		case elliptic.P256():
			k.OID, k.Curve = "prime256v1", "P-256"
		case elliptic.P384():
			k.OID, k.Curve = "secp384r1", "P-384"
		case elliptic.P521():
			k.OID, k.Curve = "secp521r1", "P-521"
		case elliptic.P224():
			k.OID, k.Curve = "secp224r1", "P-224"
		}
		if p, err := pub.Bytes(); err == nil {
			k.Point = hexLower(p)
		}
		return k
	}
	return Key{Algorithm: c.PublicKeyAlgorithm.String()}
}

// Text writes the certificate as "openssl x509 -noout -text" does.
func (d Detail) Text() string {
	var b strings.Builder
	line := func(indent int, format string, args ...any) {
		b.WriteString(strings.TrimRight(strings.Repeat(" ", indent)+fmt.Sprintf(format, args...), " ") + "\n")
	}
	line(0, "Certificate:")
	line(4, "Data:")
	line(8, "Version: %d (0x%x)", d.Version, d.Version-1)
	d.serial(line)
	line(8, "Signature Algorithm: %s", d.SignatureAlgorithm)
	for _, p := range d.params {
		line(8, "%s", p)
	}
	line(8, "Issuer: %s", d.Issuer)
	line(8, "Validity")
	line(12, "Not Before: %s", stamp(d.NotBefore))
	line(12, "Not After : %s", stamp(d.NotAfter))
	line(8, "Subject: %s", d.Subject)
	line(8, "Subject Public Key Info:")
	line(12, "Public Key Algorithm: %s", d.Key.Algorithm)
	d.Key.text(line)
	if len(d.Extensions) > 0 {
		line(8, "X509v3 extensions:")
	}
	for _, e := range d.Extensions {
		critical := ""
		if e.Critical {
			critical = "critical"
		}
		line(12, "%s: %s", e.Name, critical)
		for _, l := range e.Lines {
			line(16, "%s", l)
		}
	}
	line(4, "Signature Algorithm: %s", d.SignatureAlgorithm)
	line(4, "Signature Value:")
	for _, p := range d.params {
		line(8, "%s", p)
	}
	for _, l := range wrap(d.Signature, 18) {
		line(8, "%s", l)
	}
	return b.String()
}

// serial writes a short serial number as a number too.
func (d Detail) serial(line func(int, string, ...any)) {
	sign := ""
	if d.negative {
		sign = "-"
	}
	digits := strings.ReplaceAll(d.Serial, ":", "")
	var n uint64
	if len(digits) <= 16 {
		if _, err := fmt.Sscanf(digits, "%x", &n); err == nil && n < 1<<63 {
			line(8, "Serial Number: %s%d (%s0x%x)", sign, n, sign, n)
			return
		}
	}
	line(8, "Serial Number:")
	line(12, "%s%s", map[bool]string{true: " (Negative)"}[d.negative], d.Serial)
}

func (k Key) text(line func(int, string, ...any)) {
	if k.Bits > 0 {
		line(16, "Public-Key: (%d bit)", k.Bits)
	}
	if k.Modulus != "" {
		line(16, "Modulus:")
		for _, l := range wrap(k.Modulus, 15) {
			line(20, "%s", l)
		}
		line(16, "Exponent: %d (0x%x)", k.Exponent, k.Exponent)
	}
	if k.Point != "" {
		line(16, "pub:")
		for _, l := range wrap(k.Point, 15) {
			line(20, "%s", l)
		}
		line(16, "ASN1 OID: %s", k.OID)
		line(16, "NIST CURVE: %s", k.Curve)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05 2006 GMT") }

func hexLower(b []byte) string { return hexWith("%02x", b) }
func hexUpper(b []byte) string { return hexWith("%02X", b) }

func hexWith(format string, b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf(format, c)
	}
	return strings.Join(parts, ":")
}

// wrap breaks hex with colons into lines of n bytes.
func wrap(s string, n int) []string {
	var out []string
	for len(s) > 3*n {
		out = append(out, s[:3*n])
		s = s[3*n:]
	}
	return append(out, s)
}
