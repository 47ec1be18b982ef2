package list

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // SHA-256 for crypto.Hash
	_ "crypto/sha512" // SHA-384 and SHA-512 for crypto.Hash
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

type family uint8

const (
	rsaPKCS1 family = iota + 1
	rsaPSS
	ecdsaSig
	ed25519Sig
)

type algorithm struct {
	family family
	hash   crypto.Hash
}

// minRSA is the smallest RSA key in bits whose signature counts.
const minRSA = 2048

var algorithms = map[string]algorithm{
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b": {rsaPKCS1, crypto.SHA256},
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c": {rsaPKCS1, crypto.SHA384},
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d": {rsaPKCS1, crypto.SHA512},
	"\x2a\x86\x48\xce\x3d\x04\x03\x02":     {ecdsaSig, crypto.SHA256},
	"\x2a\x86\x48\xce\x3d\x04\x03\x03":     {ecdsaSig, crypto.SHA384},
	"\x2a\x86\x48\xce\x3d\x04\x03\x04":     {ecdsaSig, crypto.SHA512},
	// Ed25519 signs the bytes, not a digest. The hash only serves the ID.
	"\x2b\x65\x70": {ed25519Sig, crypto.SHA256},
}

const (
	oidPSS  = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidMGF1 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
)

var weakAlgorithms = map[string]string{
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04": "MD5 with RSA",
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05": "SHA-1 with RSA",
	"\x2a\x86\x48\xce\x3d\x04\x01":         "SHA-1 with ECDSA",
	"\x2a\x86\x48\xce\x38\x04\x03":         "SHA-1 with DSA",
}

var pssHashes = map[string]crypto.Hash{
	"\x60\x86\x48\x01\x65\x03\x04\x02\x01": crypto.SHA256,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x02": crypto.SHA384,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x03": crypto.SHA512,
}

func parseAlgorithm(der cryptobyte.String) (algorithm, error) {
	var seq, oid cryptobyte.String
	if !der.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return algorithm{}, errors.New("signature algorithm is malformed")
	}
	if string(oid) == oidPSS {
		return parsePSS(seq)
	}
	a, ok := algorithms[string(oid)]
	if !ok {
		if weak := weakAlgorithms[string(oid)]; weak != "" {
			return a, fmt.Errorf("signature algorithm %s is too weak", weak)
		}
		return a, fmt.Errorf("signature algorithm %s is not supported", oidText(string(oid)))
	}
	null := a.family == rsaPKCS1 && bytes.Equal(seq, []byte{5, 0})
	if !seq.Empty() && !null {
		return a, errors.New("signature algorithm has parameters that it should not have")
	}
	return a, nil
}

// parsePSS reads RSASSA-PSS-params (RFC 4055 section 3.1). One hash is used
// for message and mask, and the salt is as long as the hash; other settings
// are refused.
func parsePSS(in cryptobyte.String) (algorithm, error) {
	bad := errors.New("parameters of RSASSA-PSS are malformed or not supported")
	var seq, field, alg, oid, mgf cryptobyte.String
	var salt int
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() ||
		!seq.ReadASN1(&field, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
		!field.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return algorithm{}, bad
	}
	h, ok := pssHashes[string(oid)]
	if !ok || !seq.ReadASN1(&field, cbasn1.Tag(1).ContextSpecific().Constructed()) ||
		!field.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1(&mgf, cbasn1.OBJECT_IDENTIFIER) || string(mgf) != oidMGF1 ||
		!alg.ReadASN1(&field, cbasn1.SEQUENCE) || !field.ReadASN1(&mgf, cbasn1.OBJECT_IDENTIFIER) || !bytes.Equal(mgf, oid) {
		return algorithm{}, bad
	}
	if !seq.ReadASN1(&field, cbasn1.Tag(2).ContextSpecific().Constructed()) ||
		!field.ReadASN1Integer(&salt) || salt != h.Size() || !seq.Empty() {
		return algorithm{}, bad
	}
	return algorithm{rsaPSS, h}, nil
}

// ErrSignature says that a signature does not fit the key.
var ErrSignature = errors.New("signature does not verify")

// Verified is a list whose signature verified with the key that was asked for.
type Verified struct {
	*Spooled
}

// Verify checks the signature with a key. Only then can the entries be read.
func (s *Spooled) Verify(key crypto.PublicKey) (*Verified, error) {
	if err := s.check(key); err != nil {
		return nil, err
	}
	return &Verified{s}, nil
}

func (s *Spooled) check(key crypto.PublicKey) error {
	ok := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("RSA key of %d bits is too small", k.N.BitLen())
		}
		switch s.alg.family {
		case rsaPKCS1:
			ok = rsa.VerifyPKCS1v15(k, s.alg.hash, s.digest, s.signature) == nil
		case rsaPSS:
			ok = rsa.VerifyPSS(k, s.alg.hash, s.digest, s.signature, &rsa.PSSOptions{SaltLength: s.alg.hash.Size()}) == nil
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return errors.New("elliptic curve of the key is not supported")
		}
		ok = s.alg.family == ecdsaSig && ecdsa.VerifyASN1(k, s.digest, s.signature)
	case ed25519.PublicKey:
		if s.alg.family != ed25519Sig {
			break
		}
		if s.tbsEnd-s.tbsOff > maxPlain {
			return fmt.Errorf("list is signed with Ed25519 and longer than %d bytes", maxPlain)
		}
		msg := make([]byte, s.tbsEnd-s.tbsOff)
		if _, err := io.ReadFull(io.NewSectionReader(s.src, s.tbsOff, int64(len(msg))), msg); err != nil {
			return err
		}
		ok = ed25519.Verify(k, msg, s.signature)
	default:
		return fmt.Errorf("keys of type %T are not supported", key)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}
