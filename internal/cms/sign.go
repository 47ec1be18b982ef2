package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Attribute is a signed attribute (RFC 5652, section 5.3) with its one value.
type Attribute struct {
	Type  x509.OID
	Value []byte // DER
}

// SignConfig configures Sign.
type SignConfig struct {
	// Key signs: RSA (2048 bits or more), ECDSA on P-256, P-384 or P-521, or Ed25519. Required.
	Key crypto.Signer
	// Certificate is the signer's, with the public key of Key. Required.
	Certificate *x509.Certificate
	// Chain holds further certificates to put into the message, up to 15.
	Chain []*x509.Certificate
	// Attributes are signed beside content type and digest.
	Attributes []Attribute
	// SigningTime is a signed attribute when not zero. It is what the signer says, not a proof.
	SigningTime time.Time
}

// Sign makes a SignedData in DER that holds content and one signature over it and the attributes. RSA signs with
// PKCS #1 v1.5 and SHA-256, ECDSA with the hash of the curve's strength.
func Sign(content []byte, cfg SignConfig) ([]byte, error) {
	s, err := newSigner(cfg)
	if err != nil {
		return nil, fmt.Errorf("cms: signing: %w", err)
	}
	info, err := s.signerInfo(content)
	if err != nil {
		return nil, fmt.Errorf("cms: signing: %w", err)
	}
	certs := [][]byte{cfg.Certificate.Raw}
	for _, c := range cfg.Chain {
		certs = append(certs, c.Raw)
	}
	slices.SortFunc(certs, bytes.Compare)
	digestAlg := tlv(tagSequence, oidTLV(hashOID(s.hash)))
	// The content is copied once, into the whole: it may be large.
	octets := appendHeader(nil, tagOctets, len(content))
	inner := appendHeader(nil, context0, len(octets)+len(content))
	encap := slices.Concat(oidTLV(oidData), inner, octets)
	encapHead := appendHeader(nil, tagSequence, len(encap)+len(content))
	before := slices.Concat([]byte{tagInteger, 1, 1}, tlv(tagSet, digestAlg), encapHead, encap)
	after := slices.Concat(tlv(context0, certs...), tlv(tagSet, info))
	body := len(before) + len(content) + len(after)
	bodyHead := appendHeader(nil, tagSequence, body)
	wrapped := appendHeader(nil, context0, len(bodyHead)+body)
	oid := oidTLV(oidSignedData)
	total := len(oid) + len(wrapped) + len(bodyHead) + body
	out := appendHeader(make([]byte, 0, total+10), tagSequence, total)
	for _, part := range [][]byte{oid, wrapped, bodyHead, before, content, after} {
		out = append(out, part...)
	}
	return out, nil
}

type signer struct {
	cfg    SignConfig
	hash   crypto.Hash
	sigAlg []byte
}

func newSigner(cfg SignConfig) (*signer, error) {
	if cfg.Key == nil || cfg.Certificate == nil {
		return nil, errors.New("key and certificate are needed")
	}
	if pub, ok := cfg.Key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cfg.Certificate.PublicKey) {
		return nil, errors.New("the certificate is not that of the key")
	}
	if len(cfg.Chain) >= maxCertificates || slices.Contains(cfg.Chain, nil) {
		return nil, fmt.Errorf("the chain holds a nil, or more than %d certificates", maxCertificates-1)
	}
	s := &signer{cfg: cfg, hash: crypto.SHA256}
	switch pub := cfg.Key.Public().(type) {
	case *rsa.PublicKey:
		if err := checkPublicKey(pub); err != nil {
			return nil, err
		}
		s.sigAlg = tlv(tagSequence, oidTLV(oidPKCS1+"\x0b"), []byte{0x05, 0x00})
	case *ecdsa.PublicKey:
		alg := oidECDSA + "\x02"
		switch size := pub.Curve.Params().BitSize; {
		case size > 384:
			s.hash, alg = crypto.SHA512, oidECDSA+"\x04"
		case size > 256:
			s.hash, alg = crypto.SHA384, oidECDSA+"\x03"
		}
		s.sigAlg = tlv(tagSequence, oidTLV(alg))
	case ed25519.PublicKey:
		// RFC 8419, section 3.1: the digest of the content is SHA-512.
		s.hash, s.sigAlg = crypto.SHA512, tlv(tagSequence, oidTLV(oidEd25519))
	default:
		return nil, fmt.Errorf("key of type %T, want RSA, ECDSA or Ed25519", pub)
	}
	return s, nil
}

func (s *signer) signerInfo(content []byte) ([]byte, error) {
	attrs, err := s.attributes(digest(s.hash, content))
	if err != nil {
		return nil, err
	}
	signed := tlv(tagSet, attrs...)
	message, opts := digest(s.hash, signed), crypto.SignerOpts(s.hash)
	if _, ok := s.cfg.Key.Public().(ed25519.PublicKey); ok {
		message, opts = signed, crypto.Hash(0)
	}
	sig, err := s.cfg.Key.Sign(rand.Reader, message, opts)
	if err != nil {
		return nil, err
	}
	return tlv(tagSequence, []byte{tagInteger, 1, 1}, identifier(s.cfg.Certificate, false, context0Plain),
		tlv(tagSequence, oidTLV(hashOID(s.hash))), tlv(context0, attrs...), s.sigAlg, tlv(tagOctets, sig)), nil
}

// attributes encodes the signed attributes in the order of DER.
func (s *signer) attributes(contentDigest []byte) ([][]byte, error) {
	out := [][]byte{
		tlv(tagSequence, oidTLV(oidContentType), tlv(tagSet, oidTLV(oidData))),
		tlv(tagSequence, oidTLV(oidDigest), tlv(tagSet, tlv(tagOctets, contentDigest))),
	}
	if !s.cfg.SigningTime.IsZero() {
		value, err := asn1.Marshal(s.cfg.SigningTime.UTC().Truncate(time.Second))
		if err != nil {
			return nil, fmt.Errorf("signing time: %w", err)
		}
		out = append(out, tlv(tagSequence, oidTLV(oidSigningTime), tlv(tagSet, value)))
	}
	seen := map[string]bool{oidContentType: true, oidDigest: true, oidSigningTime: true}
	for _, a := range s.cfg.Attributes {
		oid, err := a.Type.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("attribute type: %w", err)
		}
		value := cryptobyte.String(a.Value)
		var element cryptobyte.String
		var tag cbasn1.Tag
		if len(oid) == 0 || seen[string(oid)] || !value.ReadAnyASN1Element(&element, &tag) || !value.Empty() {
			return nil, fmt.Errorf("attribute %s: reserved, given twice, or not one DER value", quote(a.Type.String()))
		}
		seen[string(oid)] = true
		out = append(out, tlv(tagSequence, oidTLV(string(oid)), tlv(tagSet, a.Value)))
	}
	if len(out) > maxAttributes {
		return nil, fmt.Errorf("%d attributes, at most %d", len(out), maxAttributes)
	}
	slices.SortFunc(out, bytes.Compare)
	return out, nil
}

func digest(h crypto.Hash, b []byte) []byte {
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}
