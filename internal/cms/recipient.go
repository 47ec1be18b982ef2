package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

type recipientKind int

const (
	kindOther recipientKind = iota // password, key-encryption key and whatever may come
	kindTransport
	kindAgreement
)

// recipient is one key that a message is encrypted to. A recipient that uses something unknown is kept with its
// problem: the message may well have another one for our key.
type recipient struct {
	kind    recipientKind
	id      recipientID
	problem error
	name    string
	wrapped []byte // the encrypted content key

	oaep *rsa.OAEPOptions // key transport: nil for PKCS #1 v1.5

	curve   ecdh.Curve // key agreement; nil when the originator does not name it, then it is our key's
	point   []byte
	kdf     crypto.Hash
	wrapAlg []byte // DER AlgorithmIdentifier, which goes into the KDF as it stands
	kekLen  int
	ukm     []byte // DER OCTET STRING or nil
}

// recipientID is either a certificate's issuer and serial number or a subject key identifier.
type recipientID struct {
	issuer, serial, ski []byte
}

// parseRecipient reads one RecipientInfo (RFC 5652, section 6.2), which gives several recipients when it is a key
// agreement for several keys.
func parseRecipient(der []byte) ([]recipient, error) {
	in := cryptobyte.String(der)
	var body cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&body, &tag) || !in.Empty() {
		return nil, malformed("recipient")
	}
	switch tag {
	case cbasn1.SEQUENCE:
		r, err := parseTransport(body)
		return []recipient{r}, err
	case context1:
		return parseAgreement(body)
	case context2, context2 + 1, context2 + 2:
		return []recipient{{kind: kindOther}}, nil
	}
	return nil, malformed("recipient of unknown kind 0x%02x", uint8(tag))
}

// parseTransport reads KeyTransRecipientInfo (RFC 5652, section 6.2.1).
func parseTransport(s cryptobyte.String) (recipient, error) {
	r := recipient{kind: kindTransport}
	var version int
	var alg, key cryptobyte.String
	if !s.ReadASN1Integer(&version) || version != 0 && version != 2 {
		return r, malformed("version of a key transport recipient")
	}
	var err error
	if r.id, err = readID(&s, cbasn1.Tag(context0Plain)); err != nil {
		return r, err
	}
	if !s.ReadASN1Element(&alg, cbasn1.SEQUENCE) || !s.ReadASN1(&key, cbasn1.OCTET_STRING) || !s.Empty() {
		return r, malformed("key transport recipient")
	}
	if len(key) == 0 || len(key) > maxKeyBlob {
		return r, malformed("encrypted key of %d bytes", len(key))
	}
	r.wrapped = key
	oid, params, err := parseAlgorithm(alg)
	if err != nil {
		return r, err
	}
	switch oid {
	case oidRSA:
		r.name = "RSAES-PKCS1-v1_5"
		if len(dropNull(params)) != 0 {
			return r, malformed("parameters of %s", r.name)
		}
	case oidOAEP:
		r.name = "RSAES-OAEP"
		r.oaep, r.problem = parseOAEP(params)
	default:
		r.problem = unsupported("key transport: %s", oidName(oid))
	}
	return r, nil
}

// parseOAEP reads RSAES-OAEP-params (RFC 4055, section 4.1). Every field has a default and may be left out.
func parseOAEP(params cryptobyte.String) (*rsa.OAEPOptions, error) {
	bad := malformed("parameters of RSAES-OAEP")
	opts := &rsa.OAEPOptions{Hash: crypto.SHA1, MGFHash: crypto.SHA1}
	if params = dropNull(params); params.Empty() {
		return opts, nil
	}
	var seq, hash, mgf, source cryptobyte.String
	var hasHash, hasMGF, hasSource bool
	if !params.ReadASN1(&seq, cbasn1.SEQUENCE) || !params.Empty() ||
		!seq.ReadOptionalASN1(&hash, &hasHash, context0) ||
		!seq.ReadOptionalASN1(&mgf, &hasMGF, context1) ||
		!seq.ReadOptionalASN1(&source, &hasSource, context2) || !seq.Empty() {
		return nil, bad
	}
	var err error
	if hasHash {
		if opts.Hash, err = parseHash(hash); err != nil {
			return nil, err
		}
	}
	if hasMGF {
		oid, inner, err := parseAlgorithm(mgf)
		if err != nil || oid != oidMGF1 {
			return nil, bad
		}
		if opts.MGFHash, err = parseHash(inner); err != nil {
			return nil, err
		}
	}
	if hasSource {
		oid, inner, err := parseAlgorithm(source)
		var label cryptobyte.String
		if err != nil || oid != oidPSpecified || !inner.ReadASN1(&label, cbasn1.OCTET_STRING) || !inner.Empty() ||
			len(label) > maxLabel {
			return nil, bad
		}
		opts.Label = label
	}
	return opts, nil
}

func parseHash(der []byte) (crypto.Hash, error) {
	oid, params, err := parseAlgorithm(der)
	if err != nil {
		return 0, err
	}
	h, ok := hashByOID(oid)
	if !ok || len(dropNull(params)) != 0 {
		return 0, unsupported("hash function: %s", oidName(oid))
	}
	return h, nil
}

// parseAgreement reads KeyAgreeRecipientInfo (RFC 5652, section 6.2.2; RFC 5753, section 3.1).
func parseAgreement(s cryptobyte.String) ([]recipient, error) {
	bad := malformed("key agreement recipient")
	base := recipient{kind: kindAgreement}
	var version int
	var originator, ukm, alg, keys cryptobyte.String
	var hasUKM bool
	if !s.ReadASN1Integer(&version) || version != 3 || !s.ReadASN1(&originator, context0) ||
		!s.ReadOptionalASN1(&ukm, &hasUKM, context1) ||
		!s.ReadASN1Element(&alg, cbasn1.SEQUENCE) || !s.ReadASN1(&keys, cbasn1.SEQUENCE) || !s.Empty() {
		return nil, bad
	}
	if hasUKM {
		var inner cryptobyte.String
		if !ukm.ReadASN1Element(&inner, cbasn1.OCTET_STRING) || !ukm.Empty() || len(inner) > maxUKM {
			return nil, bad
		}
		base.ukm = inner
	}
	if err := base.parseOriginator(originator); err != nil {
		return nil, err
	}
	if err := base.parseKDF(alg); err != nil {
		return nil, err
	}
	var out []recipient
	for !keys.Empty() {
		var rek, wrapped cryptobyte.String
		if len(out) == maxRecipients || !keys.ReadASN1(&rek, cbasn1.SEQUENCE) {
			return nil, bad
		}
		r := base
		var err error
		if r.id, err = readID(&rek, context0); err != nil {
			return nil, err
		}
		if !rek.ReadASN1(&wrapped, cbasn1.OCTET_STRING) || !rek.Empty() || len(wrapped) > maxKeyBlob {
			return nil, bad
		}
		r.wrapped = wrapped
		out = append(out, r)
	}
	return out, nil
}

// parseOriginator takes an ephemeral public key. Its algorithm should have no parameters (RFC 5753, section 3.1.1), but
// a named curve is harmless and some write it.
func (r *recipient) parseOriginator(s cryptobyte.String) error {
	var pub, alg cryptobyte.String
	var point []byte
	if !s.PeekASN1Tag(context1) {
		r.problem = unsupported("key agreement with a static key of the sender")
		return nil
	}
	if !s.ReadASN1(&pub, context1) || !s.Empty() || !pub.ReadASN1Element(&alg, cbasn1.SEQUENCE) ||
		!pub.ReadASN1BitStringAsBytes(&point) || !pub.Empty() {
		return malformed("public key of a key agreement")
	}
	oid, params, err := parseAlgorithm(alg)
	if err != nil {
		return err
	}
	if oid != oidECPublicKey {
		r.problem = unsupported("key agreement: %s", oidName(oid))
		return nil
	}
	r.point = point
	if params = dropNull(params); params.Empty() {
		return nil
	}
	var curve cryptobyte.String
	if !params.ReadASN1(&curve, cbasn1.OBJECT_IDENTIFIER) || !params.Empty() {
		return malformed("public key of a key agreement")
	}
	switch string(curve) {
	case oidP256:
		r.curve = ecdh.P256()
	case oidP384:
		r.curve = ecdh.P384()
	case oidP521:
		r.curve = ecdh.P521()
	default:
		r.problem = unsupported("curve: %s", oidName(string(curve)))
	}
	return nil
}

// parseKDF reads keyEncryptionAlgorithm: a scheme that fixes the KDF's hash, with the key wrap as its parameter. The
// cofactor forms equal the standard ones, since all three curves have the cofactor 1.
func (r *recipient) parseKDF(der []byte) error {
	oid, params, err := parseAlgorithm(der)
	if err != nil {
		return err
	}
	switch oid {
	case oidX963Std, oidX963Cof:
		r.kdf = crypto.SHA1
	case oidSECStd + "\x00", oidSECCof + "\x00":
		r.kdf = crypto.SHA224
	case oidSECStd + "\x01", oidSECCof + "\x01":
		r.kdf = crypto.SHA256
	case oidSECStd + "\x02", oidSECCof + "\x02":
		r.kdf = crypto.SHA384
	case oidSECStd + "\x03", oidSECCof + "\x03":
		r.kdf = crypto.SHA512
	default:
		r.problem = unsupported("key agreement: %s", oidName(oid))
		return nil
	}
	var wrap cryptobyte.String
	if !params.ReadASN1Element(&wrap, cbasn1.SEQUENCE) || !params.Empty() {
		return malformed("parameters of a key agreement")
	}
	r.wrapAlg = wrap
	wrapOID, wrapParams, err := parseAlgorithm(wrap)
	if err != nil {
		return err
	}
	switch wrapOID {
	case oidAES + "\x05":
		r.kekLen = 16
	case oidAES + "\x19":
		r.kekLen = 24
	case oidAES + "\x2d":
		r.kekLen = 32
	default:
		r.problem = unsupported("key wrap: %s", oidName(wrapOID))
		return nil
	}
	if len(dropNull(wrapParams)) != 0 {
		return malformed("parameters of the key wrap")
	}
	return nil
}

// readID reads RecipientIdentifier, KeyAgreeRecipientIdentifier or SignerIdentifier. alt is the tag of the key
// identifier: a bare one, or RecipientKeyIdentifier with its optional date and attribute.
func readID(s *cryptobyte.String, alt cbasn1.Tag) (recipientID, error) {
	var id recipientID
	var body cryptobyte.String
	if s.PeekASN1Tag(cbasn1.SEQUENCE) {
		var issuer, serial cryptobyte.String
		if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) ||
			!body.ReadASN1(&serial, cbasn1.INTEGER) || !body.Empty() {
			return id, malformed("issuer and serial number")
		}
		id.issuer, id.serial = issuer, serial
		return id, nil
	}
	if !s.ReadASN1(&body, alt) {
		return id, malformed("recipient or signer identifier")
	}
	if alt&constructed != 0 {
		var ski cryptobyte.String
		if !body.ReadASN1(&ski, cbasn1.OCTET_STRING) {
			return id, malformed("recipient key identifier")
		}
		body = ski
	}
	id.ski = body
	return id, nil
}

// names reports whether the identifier is that of the certificate.
func (id recipientID) names(cert *x509.Certificate) bool {
	if id.ski != nil {
		return len(cert.SubjectKeyId) > 0 && bytes.Equal(id.ski, cert.SubjectKeyId)
	}
	// The raw serial number is compared as the integer it encodes; cryptobyte has made sure that it is minimal.
	return bytes.Equal(id.issuer, cert.RawIssuer) && bytes.Equal(id.serial, serialContent(cert))
}

func serialContent(cert *x509.Certificate) []byte {
	var b cryptobyte.Builder
	b.AddASN1BigInt(cert.SerialNumber)
	der, err := b.Bytes()
	if err != nil {
		return nil
	}
	s := cryptobyte.String(der)
	var content cryptobyte.String
	s.ReadASN1(&content, cbasn1.INTEGER)
	return content
}

// keyIdentifiers gives the identifiers that certificates commonly have for a public key: SHA-1 (RFC 5280, section
// 4.2.1.2) and the left 160 bits of SHA-256 (RFC 7093, section 2) of the key's bits.
func keyIdentifiers(pub any) ([][]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	in := cryptobyte.String(der)
	var seq, alg cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1Element(&alg, cbasn1.SEQUENCE) ||
		!seq.ReadASN1BitStringAsBytes(&bits) {
		return nil, malformed("public key")
	}
	s1, s2 := sha1.Sum(bits), sha256.Sum256(bits)
	return [][]byte{s1[:], s2[:20]}, nil
}
