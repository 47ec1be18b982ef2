package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mooringlib/mooring/pki/keystore"
)

// KeyRequest asks for a private key. Its JSON form takes rsa_key_size as a
// number or as a string with the number.
type KeyRequest struct {
	// Name ties key, request and certificate together.
	Name string `json:"name"`
	// Algorithm is "RSA" or "ECC".
	Algorithm string `json:"algorithm"`
	// RSAKeySize is 2048 to 4096 in multiples of 256; 0 means 2048. Only for
	// RSA.
	RSAKeySize Int `json:"rsa_key_size,omitempty"`
	// ECCCurve is SECP256R1 (or SECP256R), SECP384R1 or SECP521R1; empty means
	// SECP256R1. Only for ECC.
	ECCCurve string `json:"ecc_curve,omitempty"`
	// Replace allows a name that is taken. The old key stays in force until a
	// certificate for the new one is in.
	Replace bool `json:"replace,omitempty"`
}

// Request asks for a certificate request. Name and CommonName are required.
type Request struct {
	Name               string `json:"name"`
	CommonName         string `json:"common_name"`
	CountryName        string `json:"country_name,omitempty"`
	StateProvinceName  string `json:"state_province_name,omitempty"`
	LocalityName       string `json:"locality_name,omitempty"`
	OrganizationName   string `json:"organization_name,omitempty"`
	OrganizationalUnit string `json:"organizational_unit_name,omitempty"`
	EmailAddress       string `json:"email_address,omitempty"`
	// Algorithm, RSAKeySize and ECCCurve, when given, make the key when there
	// is none of this name; when there is one, it has to be of this kind.
	Algorithm  string `json:"algorithm,omitempty"`
	RSAKeySize Int    `json:"rsa_key_size,omitempty"`
	ECCCurve   string `json:"ecc_curve,omitempty"`
	// ValidityPeriod is the wanted validity in days, 1 to 36500. PKCS #10 has
	// no place for it; it goes into the audit record.
	ValidityPeriod Int `json:"validity_period,omitempty"`
	// SubjectAltNames are DNS names, IP addresses, email addresses and URIs,
	// with or without a prefix "DNS:", "IP:", "email:" or "URI:".
	SubjectAltNames []string `json:"subject_alt_names,omitempty"`
}

// Int is a number that JSON may also give as a string.
type Int int

// UnmarshalJSON implements [json.Unmarshaler].
func (i *Int) UnmarshalJSON(data []byte) error {
	s := string(data)
	if s == "null" {
		return nil
	}
	if len(s) > 0 && s[0] == '"' {
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return fmt.Errorf("pki: %.40q is not a whole number", s)
	}
	*i = Int(n)
	return nil
}

// keySpec checks the fields that say what key is wanted.
func (e *FieldErrors) keySpec(algorithm string, bits Int, curve string) keystore.Spec {
	var s keystore.Spec
	switch algorithm {
	case "RSA":
		if curve != "" {
			e.add("ecc_curve", "it is only for the algorithm ECC")
		}
		s.RSABits = int(bits)
		if bits == 0 {
			s.RSABits = 2048
		}
		if s.RSABits < 2048 || s.RSABits > 4096 || s.RSABits%256 != 0 {
			e.add("rsa_key_size", "%d is not a multiple of 256 between 2048 and 4096", bits)
		}
	case "ECC":
		if bits != 0 {
			e.add("rsa_key_size", "it is only for the algorithm RSA")
		}
		switch curve {
		case "", "SECP256R1", "SECP256R":
			s.Curve = elliptic.P256()
		case "SECP384R1":
			s.Curve = elliptic.P384()
		case "SECP521R1":
			s.Curve = elliptic.P521()
		default:
			e.add("ecc_curve", "%.40q is not SECP256R1, SECP384R1 or SECP521R1", curve)
		}
	case "":
		e.add("algorithm", "it is missing; it is RSA or ECC")
	default:
		e.add("algorithm", "%.40q is not RSA or ECC", algorithm)
	}
	return s
}

// CreateKey makes a private key under a name. It fails with [ErrExists] when the
// name has one and the request does not say replace.
func (m *Manager) CreateKey(ctx context.Context, r KeyRequest) error {
	err := m.createKey(ctx, r)
	m.audit(ctx, "system.generate_private_key", "Generated private key: "+capped(r.Name), err, map[string]any{
		"name": capped(r.Name), "algorithm": capped(r.Algorithm), "rsa_key_size": r.RSAKeySize, "ecc_curve": capped(r.ECCCurve), "replace": r.Replace,
	})
	return err
}

func (m *Manager) createKey(ctx context.Context, r KeyRequest) error {
	var e FieldErrors
	e.name(r.Name)
	spec := e.keySpec(r.Algorithm, r.RSAKeySize, r.ECCCurve)
	if err := e.err(); err != nil {
		return err
	}
	return m.write(ctx, func() error { return m.makeKey(ctx, r.Name, spec, r.Replace) })
}

// makeKey needs op and the lock of the files.
func (m *Manager) makeKey(ctx context.Context, name string, spec keystore.Spec, replace bool) error {
	p, err := m.files.Read(name)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if !replace && (p.Key != nil || p.Cert != nil || p.Pending != nil) {
		return fmt.Errorf("%w: %q has a key or certificate; say replace to make a new one", ErrExists, name)
	}
	if p.Key == nil && p.Cert == nil && p.Pending == nil {
		// One more than refresh takes would be the end of this directory.
		names, err := m.managed()
		if err != nil {
			return err
		}
		if len(names) >= maxManaged {
			return fmt.Errorf("pki: key of %q: %q has %d names already, and takes no more", name, m.cfg.Dir, len(names))
		}
	}
	text, err := m.cfg.Keys.Generate(ctx, spec)
	if err != nil {
		return fmt.Errorf("pki: key of %q: %w", name, err)
	}
	put := m.files.PutPending
	if p.Key == nil && p.Cert == nil {
		put = m.files.PutKey
	}
	if err := put(name, text); err != nil {
		return fmt.Errorf("pki: key of %q: %w", name, err)
	}
	m.reload(ctx, m.entry(name), false)
	return nil
}

// CreateRequest returns a PKCS #10 request in PEM, signed by the key of the name:
// the one that waits for a certificate when there is one, else the one in force.
func (m *Manager) CreateRequest(ctx context.Context, r Request) ([]byte, error) {
	csr, err := m.createRequest(ctx, r)
	if err != nil {
		m.counters.csrFailure.Add(1)
	} else {
		m.counters.csrSuccess.Add(1)
	}
	m.audit(ctx, "system.generate_csr", "Generated CSR for: "+capped(r.Name), err, r.detail())
	return csr, err
}

// detail is what the audit record holds.
func (r Request) detail() map[string]any {
	d := map[string]any{"name": capped(r.Name), "common_name": capped(r.CommonName)}
	for k, v := range map[string]string{
		"country_name": r.CountryName, "state_province_name": r.StateProvinceName, "locality_name": r.LocalityName,
		"organization_name": r.OrganizationName, "organizational_unit_name": r.OrganizationalUnit, "email_address": r.EmailAddress,
	} {
		if v != "" {
			d[k] = capped(v)
		}
	}
	if r.ValidityPeriod != 0 {
		d["validity_period_days"] = r.ValidityPeriod
	}
	if n := len(r.SubjectAltNames); n > 0 && n <= maxAltNames {
		d["subject_alt_names"] = r.SubjectAltNames
	}
	return d
}

func (m *Manager) createRequest(ctx context.Context, r Request) ([]byte, error) {
	template, spec, err := r.template()
	if err != nil {
		return nil, err
	}
	var out []byte
	err = m.write(ctx, func() error {
		pending, current, p, err := m.storedKeys(ctx, r.Name)
		if err != nil {
			return err
		}
		if p.Key == nil && p.Pending == nil {
			if r.Algorithm == "" {
				return fmt.Errorf("%w: %q has no private key; make one first, or give algorithm", ErrNotFound, r.Name)
			}
			if err := m.makeKey(ctx, r.Name, spec, false); err != nil {
				return err
			}
			if pending, current, _, err = m.storedKeys(ctx, r.Name); err != nil {
				return err
			}
		}
		signer := current
		if p.Pending != nil {
			signer = pending
		}
		if signer == nil {
			return fmt.Errorf("pki: the key of %q cannot be used here", r.Name)
		}
		if err := r.fits(signer.Public(), spec); err != nil {
			return err
		}
		der, err := signRequest(template, signer)
		if err != nil {
			return err
		}
		out = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		return nil
	})
	return out, err
}

func signRequest(template *x509.CertificateRequest, signer crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, signer)
	if err != nil {
		return nil, fmt.Errorf("pki: sign request: %w", err)
	}
	return der, nil
}

// fits checks that the key is of the kind that the request names.
func (r Request) fits(pub crypto.PublicKey, want keystore.Spec) error {
	if r.Algorithm == "" {
		return nil
	}
	have := specOf(pub)
	if r.Algorithm == "RSA" && r.RSAKeySize == 0 && have.RSABits != 0 || r.Algorithm == "ECC" && r.ECCCurve == "" && have.Curve != nil {
		return nil
	}
	if have != want {
		return FieldErrors{{Field: "algorithm", Text: fmt.Sprintf("the key of %q is %s, not %s", r.Name, have, want)}}
	}
	return nil
}

// template checks every field.
func (r Request) template() (*x509.CertificateRequest, keystore.Spec, error) {
	var e FieldErrors
	var spec keystore.Spec
	e.name(r.Name)
	if r.CommonName == "" {
		e.add("common_name", "it is missing")
	}
	if r.Algorithm != "" || r.RSAKeySize != 0 || r.ECCCurve != "" {
		spec = e.keySpec(r.Algorithm, r.RSAKeySize, r.ECCCurve)
	}
	if r.ValidityPeriod < 0 || r.ValidityPeriod > maxValidity {
		e.add("validity_period", "%d is not between 1 and %d days", r.ValidityPeriod, maxValidity)
	}
	if c := r.CountryName; c != "" && (len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z') {
		e.add("country_name", "%.40q is not two capital letters", c)
	}
	if a := r.EmailAddress; a != "" && !isEmail(a) {
		e.add("email_address", "%.80q is not an email address", a)
	}
	template := &x509.CertificateRequest{RawSubject: r.subject(&e)}
	e.altNames(template, r.SubjectAltNames)
	extensions, err := requestExtensions()
	if err != nil {
		return nil, spec, err
	}
	template.ExtraExtensions = extensions
	return template, spec, e.err()
}

// subject encodes the name. All strings are UTF8String but those that RFC 5280
// appendix A.1 has otherwise, because "openssl ca" compares types too.
func (r Request) subject(e *FieldErrors) []byte {
	var rdns pkix.RDNSequence
	add := func(field, value string, last int, tag, bound int) {
		if value == "" {
			return
		}
		if n := utf8.RuneCountInString(value); n > bound {
			e.add(field, "it has %d characters; %d are allowed", n, bound)
			return
		}
		if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			e.add(field, "%.80q has characters that cannot be printed", value)
			return
		}
		oid := asn1.ObjectIdentifier{2, 5, 4, last}
		if tag == asn1.TagIA5String {
			oid = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
		}
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{{Type: oid, Value: asn1.RawValue{Tag: tag, Bytes: []byte(value)}}})
	}
	add("country_name", r.CountryName, 6, asn1.TagPrintableString, 2)
	add("state_province_name", r.StateProvinceName, 8, asn1.TagUTF8String, 128)
	add("locality_name", r.LocalityName, 7, asn1.TagUTF8String, 128)
	add("organization_name", r.OrganizationName, 10, asn1.TagUTF8String, 64)
	add("organizational_unit_name", r.OrganizationalUnit, 11, asn1.TagUTF8String, 64)
	add("common_name", r.CommonName, 3, asn1.TagUTF8String, 64)
	add("email_address", r.EmailAddress, 0, asn1.TagIA5String, 255)
	der, err := asn1.Marshal(rdns)
	if err != nil {
		e.add("common_name", "the subject cannot be encoded")
	}
	return der
}

func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

func (e *FieldErrors) altNames(t *x509.CertificateRequest, names []string) {
	if len(names) > maxAltNames {
		e.add("subject_alt_names", "there are %d; %d are allowed", len(names), maxAltNames)
		return
	}
	for _, n := range names {
		kind, value := altKind(n)
		ok := false
		switch kind {
		case "IP":
			if ip := net.ParseIP(value); ip != nil {
				t.IPAddresses, ok = append(t.IPAddresses, ip), true
			}
		case "URI":
			if u, err := url.Parse(value); err == nil && u.Scheme != "" && u.Host != "" {
				t.URIs, ok = append(t.URIs, u), true
			}
		case "email":
			if isEmail(value) {
				t.EmailAddresses, ok = append(t.EmailAddresses, value), true
			}
		case "DNS":
			if isDNS(value) {
				t.DNSNames, ok = append(t.DNSNames, value), true
			}
		}
		if !ok {
			e.add("subject_alt_names", "%.80q is not a DNS name, IP address, email address or URI", n)
		}
	}
}

func altKind(n string) (kind, value string) {
	for _, k := range []string{"DNS", "IP", "email", "URI"} {
		if v, ok := strings.CutPrefix(n, k+":"); ok {
			return k, v
		}
	}
	switch {
	case net.ParseIP(n) != nil:
		return "IP", n
	case strings.Contains(n, "://"):
		return "URI", n
	case strings.Contains(n, "@"):
		return "email", n
	}
	return "DNS", n
}

// isDNS accepts host names (RFC 1123) and a wildcard as the first label.
func isDNS(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i, label := range strings.Split(s, ".") {
		if label == "*" && i == 0 {
			continue
		}
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// requestExtensions are the uses that a router's certificate needs.
func requestExtensions() ([]pkix.Extension, error) {
	usage, err1 := asn1.Marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}) // digitalSignature
	extended, err2 := asn1.Marshal([]asn1.ObjectIdentifier{
		{1, 3, 6, 1, 5, 5, 7, 3, 1}, {1, 3, 6, 1, 5, 5, 7, 3, 2},
	})
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: extended},
	}, errors.Join(err1, err2)
}

// specOf tells what kind of key a public key is of.
func specOf(pub crypto.PublicKey) keystore.Spec {
	switch k := pub.(type) {
	case interface{ Size() int }: // *rsa.PublicKey
		return keystore.Spec{RSABits: k.Size() * 8}
	case interface{ Params() *elliptic.CurveParams }: // *ecdsa.PublicKey
		for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			if c.Params().Name == k.Params().Name {
				return keystore.Spec{Curve: c}
			}
		}
	}
	return keystore.Spec{}
}

// capped bounds what goes into a record.
func capped(s string) string {
	const limit = 256
	if len(s) > limit {
		s = s[:limit]
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}
