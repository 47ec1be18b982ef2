package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// VerifyConfig configures Verify.
type VerifyConfig struct {
	// Roots are trusted. A signer's own certificate may be among them: that pins the signer. Required unless AnySigner.
	Roots *x509.CertPool
	// AnySigner takes a valid signature by anybody, with the certificate that the message brings, and looks at no chain
	// and no time. The signature is no more than a checksum then: for readers that have no owner to trust. It excludes
	// Roots.
	AnySigner bool
	// Certificates are further certificates to find the signer and its chain, beside those in the message.
	Certificates []*x509.Certificate
	// CurrentTime is when certificates have to be valid. The zero value means now.
	CurrentTime time.Time
	// MaxSize bounds the message in bytes. Default 16 MiB.
	MaxSize int64
}

// Signed is a signed message whose signature is valid and whose signer is trusted.
type Signed struct {
	// Content is what was signed. It may share memory with the message.
	Content []byte
	// Signer is the certificate of the signer that was found trusted first.
	Signer *x509.Certificate
	// Chains lead from Signer to Roots. None with AnySigner.
	Chains [][]*x509.Certificate
	// Attributes are the signed attributes of that signer, content type and digest left out. No type stands in it twice.
	Attributes []Attribute
}

// Verify checks a SignedData that holds its content, in any form (PEM, MIME, DER, BER). It fails with ErrSignature
// when no signature is valid, and with ErrUntrusted when none of the valid ones leads to Roots. The content has to be of
// the type id-data. SHA-256, SHA-384 and SHA-512 are taken, with RSA (PKCS #1 v1.5 and PSS), ECDSA and Ed25519; signed attributes have to be there. The
// certificates' extended key usage is not looked at, their key usage is.
func Verify(data []byte, cfg VerifyConfig) (*Signed, error) {
	if (cfg.Roots == nil) != cfg.AnySigner {
		return nil, errors.New("cms: verifying: no roots, or roots and any signer")
	}
	buf, err := load(bytes.NewReader(data), cfg.MaxSize, KindSigned)
	if err != nil {
		return nil, err
	}
	s, err := parseSigned(buf)
	if err != nil {
		return nil, err
	}
	s.certs = append(s.certs, cfg.Certificates...)
	// Any one signer that is valid and trusted is enough. When there is none, the error that came furthest is told.
	var failed error
	for i := range s.signers {
		result, err := s.verify(&s.signers[i], cfg)
		if err == nil {
			return result, nil
		}
		if failed == nil || errors.Is(err, ErrUntrusted) && !errors.Is(failed, ErrUntrusted) {
			failed = err
		}
	}
	if failed == nil {
		failed = fmt.Errorf("%w: the message has no signer", ErrSignature)
	}
	return nil, failed
}

// signedData is a parsed SignedData; nothing in it was verified yet.
type signedData struct {
	contentType string
	content     []byte
	certs       []*x509.Certificate
	signers     []signerInfo
	digests     map[crypto.Hash][]byte
}

type signerInfo struct {
	id        recipientID
	hash      crypto.Hash
	signed    []byte // DER of the signed attributes, with the SET tag
	attrs     []Attribute
	oids      []string // of attrs
	sigOID    string
	sigParams cryptobyte.String
	signature []byte
	problem   error
}

// parseSigned reads SignedData (RFC 5652, section 5.1). buf is overwritten when it has indefinite lengths.
func parseSigned(buf []byte) (*signedData, error) {
	r := &berReader{buf: buf}
	s := &signedData{digests: map[crypto.Hash][]byte{}}
	if err := r.enter(tagSequence, "content info"); err != nil {
		return nil, err
	}
	oid, err := readOID(r, "content type")
	if err != nil {
		return nil, err
	}
	if oid != oidSignedData {
		return nil, unsupported("the message holds %s, not a signed message", oidName(oid))
	}
	for _, step := range []struct {
		tag  byte
		what string
	}{{context0, "content"}, {tagSequence, "signed data"}} {
		if err := r.enter(step.tag, step.what); err != nil {
			return nil, err
		}
	}
	if _, err := r.expect(tagInteger, "version"); err != nil {
		return nil, err
	}
	if _, err := r.expect(tagSet, "digest algorithms"); err != nil {
		return nil, err
	}
	if err := s.parseContent(r); err != nil {
		return nil, err
	}
	if r.peek() == context0 {
		if err := s.parseCertificates(r); err != nil {
			return nil, err
		}
	}
	if r.peek() == context1 {
		if _, err := r.element("revocation lists"); err != nil {
			return nil, err
		}
	}
	if err := s.parseSigners(r); err != nil {
		return nil, err
	}
	for _, what := range []string{"signed data", "content", "content info"} {
		if err := r.leave(what); err != nil {
			return nil, err
		}
	}
	if r.pos != len(buf) {
		return nil, malformed("%d bytes after the message", len(buf)-r.pos)
	}
	return s, nil
}

func (s *signedData) parseContent(r *berReader) (err error) {
	if err := r.enter(tagSequence, "signed content"); err != nil {
		return err
	}
	if s.contentType, err = readOID(r, "signed content type"); err != nil {
		return err
	}
	// The same key may have signed other things, such as a time stamp: those are of another type.
	if s.contentType != oidData {
		return unsupported("the signed content is %s, not data", oidName(s.contentType))
	}
	if r.peek() == 0 {
		return unsupported("the signed content is not in the message; sign with -nodetach")
	}
	if err := r.enter(context0, "signed content"); err != nil {
		return err
	}
	if s.content, err = r.octets(tagOctets, true, "signed content"); err != nil {
		return err
	}
	if err := r.leave("signed content"); err != nil {
		return err
	}
	return r.leave("signed content")
}

func (s *signedData) parseCertificates(r *berReader) error {
	if err := r.enter(context0, "certificates"); err != nil {
		return err
	}
	for n := 0; !r.atEnd(); n++ {
		tag := r.peek()
		der, err := r.element("certificate")
		if err != nil {
			return err
		}
		if n == maxCertificates {
			return malformed("more than %d certificates", maxCertificates)
		}
		if tag != tagSequence {
			continue // attribute certificates and the like, RFC 5652, section 10.2.2
		}
		// A certificate that does not parse cannot be the signer's, and must not hide one that does. One with a huge key
		// would cost minutes when a chain is looked for.
		if cert, err := x509.ParseCertificate(der); err == nil && !hugeKey(cert) {
			s.certs = append(s.certs, cert)
		}
	}
	return r.leave("certificates")
}

func hugeKey(cert *x509.Certificate) bool {
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	return ok && key.N.BitLen() > maxRSABits
}

func (s *signedData) parseSigners(r *berReader) error {
	if err := r.enter(tagSet, "signers"); err != nil {
		return err
	}
	for !r.atEnd() {
		der, err := r.element("signer")
		if err != nil {
			return err
		}
		if len(s.signers) == maxSigners {
			return malformed("more than %d signers", maxSigners)
		}
		info, err := parseSigner(der)
		if err != nil {
			return err
		}
		s.signers = append(s.signers, info)
	}
	return r.leave("signers")
}

// parseSigner reads SignerInfo (RFC 5652, section 5.3).
func parseSigner(der []byte) (signerInfo, error) {
	bad := malformed("signer")
	var info signerInfo
	in := cryptobyte.String(der)
	var s, digestAlg, attrs, sigAlg, sig, unsigned cryptobyte.String
	var version int
	var hasAttrs, hasUnsigned bool
	if !in.ReadASN1(&s, cbasn1.SEQUENCE) || !in.Empty() || !s.ReadASN1Integer(&version) || version != 1 && version != 3 {
		return info, bad
	}
	var err error
	if info.id, err = readID(&s, cbasn1.Tag(context0Plain)); err != nil {
		return info, err
	}
	if !s.ReadASN1Element(&digestAlg, cbasn1.SEQUENCE) || !s.ReadOptionalASN1(&attrs, &hasAttrs, context0) ||
		!s.ReadASN1Element(&sigAlg, cbasn1.SEQUENCE) || !s.ReadASN1(&sig, cbasn1.OCTET_STRING) ||
		!s.ReadOptionalASN1(&unsigned, &hasUnsigned, context1) || !s.Empty() {
		return info, bad
	}
	info.signature = sig
	if info.sigOID, info.sigParams, err = parseAlgorithm(sigAlg); err != nil {
		return info, err
	}
	if info.hash, err = signHash(digestAlg); err != nil {
		info.problem = err
		return info, nil
	}
	// Without signed attributes a signature over a set of attributes could be passed off as one over a content.
	if !hasAttrs {
		info.problem = unsupported("a signature without signed attributes")
		return info, nil
	}
	return info, info.parseAttributes(attrs)
}

// signHash takes the hash functions that are good enough for signatures.
func signHash(der []byte) (crypto.Hash, error) {
	h, err := parseHash(der)
	if err != nil {
		return 0, err
	}
	if h != crypto.SHA256 && h != crypto.SHA384 && h != crypto.SHA512 {
		return 0, unsupported("signature with %v", h)
	}
	return h, nil
}

func (info *signerInfo) parseAttributes(body cryptobyte.String) error {
	elements, err := setElements(body)
	if err != nil {
		return err
	}
	slices.SortFunc(elements, bytes.Compare)
	info.signed = tlv(tagSet, elements...)
	for _, e := range elements {
		in := cryptobyte.String(e)
		var seq, oid, values, value cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
			!seq.ReadASN1(&values, cbasn1.SET) || !seq.Empty() || !values.ReadAnyASN1Element(&value, &tag) {
			return malformed("signed attribute")
		}
		a := Attribute{Value: value}
		if err := a.Type.UnmarshalBinary(oid); err != nil {
			return malformed("signed attribute type")
		}
		// Two values, or two attributes of a type, would let a reader choose.
		if !values.Empty() || slices.Contains(info.oids, string(oid)) {
			return malformed("signed attribute %s stands twice", quote(a.Type.String()))
		}
		info.oids = append(info.oids, string(oid))
		info.attrs = append(info.attrs, a)
	}
	return nil
}

// take removes an attribute and returns its value.
func (info *signerInfo) take(oid string) []byte {
	i := slices.Index(info.oids, oid)
	if i < 0 {
		return nil
	}
	value := info.attrs[i].Value
	info.oids, info.attrs = slices.Delete(info.oids, i, i+1), slices.Delete(info.attrs, i, i+1)
	return value
}

func (s *signedData) verify(info *signerInfo, cfg VerifyConfig) (*Signed, error) {
	if info.problem != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, info.problem)
	}
	if !bytes.Equal(info.take(oidContentType), oidTLV(s.contentType)) {
		return nil, fmt.Errorf("%w: the signed content type is missing or another", ErrSignature)
	}
	if s.digests[info.hash] == nil {
		s.digests[info.hash] = digest(info.hash, s.content)
	}
	if !bytes.Equal(info.take(oidDigest), tlv(tagOctets, s.digests[info.hash])) {
		return nil, fmt.Errorf("%w: the content was changed", ErrSignature)
	}
	i := slices.IndexFunc(s.certs, func(c *x509.Certificate) bool { return c != nil && info.id.names(c) })
	if i < 0 {
		return nil, fmt.Errorf("%w: the signer's certificate is not in the message", ErrSignature)
	}
	cert := s.certs[i]
	err := info.checkSignature(cert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	result := &Signed{Content: s.content, Signer: cert, Attributes: info.attrs}
	if cfg.AnySigner {
		return result, nil
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return nil, fmt.Errorf("%w: %s has a key that may not sign", ErrUntrusted, quote(cert.Subject.String()))
	}
	pool := x509.NewCertPool()
	for _, c := range s.certs {
		if c != nil {
			pool.AddCert(c)
		}
	}
	result.Chains, err = cert.Verify(x509.VerifyOptions{Roots: cfg.Roots, Intermediates: pool, CurrentTime: cfg.CurrentTime,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUntrusted, quote(cert.Subject.String()), err)
	}
	return result, nil
}

// checkSignature verifies the signature over the signed attributes with the certificate's key.
func (info *signerInfo) checkSignature(cert *x509.Certificate) error {
	hashed := digest(info.hash, info.signed)
	mismatch := errors.New("signature and key do not fit")
	switch pub := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if err := checkPublicKey(pub); err != nil {
			return err
		}
		switch info.sigOID {
		case oidRSA, oidPKCS1 + rsaHash(info.hash):
			return rsa.VerifyPKCS1v15(pub, info.hash, hashed, info.signature)
		case oidPSS:
			if err := checkPSS(info.sigParams, info.hash); err != nil {
				return err
			}
			return rsa.VerifyPSS(pub, info.hash, hashed, info.signature, nil)
		}
	case *ecdsa.PublicKey:
		if info.sigOID != oidECDSA+ecdsaHash(info.hash) {
			return mismatch
		}
		if !ecdsa.VerifyASN1(pub, hashed, info.signature) {
			return errors.New("ECDSA signature does not verify")
		}
		return nil
	case ed25519.PublicKey:
		if info.sigOID != oidEd25519 {
			return mismatch
		}
		if !ed25519.Verify(pub, info.signed, info.signature) {
			return errors.New("signature by Ed25519 does not verify")
		}
		return nil
	}
	return mismatch
}

// rsaHash and ecdsaHash give the last component of sha256WithRSAEncryption and ecdsa-with-SHA256 and their siblings.
func rsaHash(h crypto.Hash) string {
	return map[crypto.Hash]string{crypto.SHA256: "\x0b", crypto.SHA384: "\x0c", crypto.SHA512: "\x0d"}[h]
}

func ecdsaHash(h crypto.Hash) string {
	return map[crypto.Hash]string{crypto.SHA256: "\x02", crypto.SHA384: "\x03", crypto.SHA512: "\x04"}[h]
}

// checkPSS reads RSASSA-PSS-params (RFC 4055, section 3.1): both hashes are the one of the digest. Any salt length is
// taken.
func checkPSS(params cryptobyte.String, want crypto.Hash) error {
	bad := malformed("parameters of RSASSA-PSS")
	var seq, hash, mgf, salt, trailer cryptobyte.String
	var hasHash, hasMGF, hasSalt, hasTrailer bool
	if !params.ReadASN1(&seq, cbasn1.SEQUENCE) || !params.Empty() ||
		!seq.ReadOptionalASN1(&hash, &hasHash, context0) ||
		!seq.ReadOptionalASN1(&mgf, &hasMGF, context1) ||
		!seq.ReadOptionalASN1(&salt, &hasSalt, context2) ||
		!seq.ReadOptionalASN1(&trailer, &hasTrailer, context2+1) || !seq.Empty() || !hasHash || !hasMGF {
		return bad
	}
	h, err := signHash(hash)
	if err != nil {
		return err
	}
	oid, inner, err := parseAlgorithm(mgf)
	if err != nil || oid != oidMGF1 {
		return bad
	}
	m, err := signHash(inner)
	if err != nil {
		return err
	}
	if h != want || m != want {
		return unsupported("RSASSA-PSS with %v and %v for a digest with %v", h, m, want)
	}
	return nil
}
