package tpmkey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"
)

// Create makes a key inside the TPM and returns it wrapped. Nothing of it stays
// in the TPM.
func (d *Device) Create(t Template) (*Blob, error) {
	if t.err != nil {
		return nil, t.err
	}
	var blob *Blob
	err := d.WithSRK(func(p *Parent) error {
		rsp, err := tpm2.Create{
			ParentHandle: p.Auth(EncryptInOut),
			InPublic:     tpm2.New2B(t.public),
		}.Execute(p.TPM)
		switch {
		case errors.Is(err, tpm2.TPMRCValue), errors.Is(err, tpm2.TPMRCCurve), errors.Is(err, tpm2.TPMRCKeySize):
			return fmt.Errorf("%w: the TPM does not make %s keys: %w", ErrUnsupported, t.name, err)
		case err != nil:
			return fmt.Errorf("tpmkey: create %s key: %w", t.name, err)
		}
		blob, err = newBlob(p.ID, rsp.OutPublic.Bytes(), rsp.OutPrivate.Buffer)
		return err
	})
	return blob, err
}

// Load checks that the TPM loads the key and returns it for use. The key takes
// no place in the TPM until it is used. [ErrWrongTPM] says that the key belongs
// to another TPM.
func (d *Device) Load(b *Blob) (*Key, error) {
	k := &Key{dev: d, blob: b}
	if err := k.with(func(*Parent, tpm2.NamedHandle) error { return nil }); err != nil {
		return nil, err
	}
	return k, nil
}

// Key is a key in the TPM. It implements [crypto.Signer] when it was made to
// [Sign]. It is safe for concurrent use.
type Key struct {
	dev    *Device
	blob   *Blob
	closed atomic.Bool
}

// Public returns *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.blob.key }

// Blob returns the wrapped form, for writing to a file.
func (k *Key) Blob() *Blob { return k.blob }

// Close makes every later use fail with [ErrClosed].
func (k *Key) Close() error {
	k.closed.Store(true)
	return nil
}

// LogValue implements [slog.LogValuer].
func (k *Key) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("TPM key %T", k.blob.key)) }

// with loads the key, runs fn and flushes the key.
func (k *Key) with(fn func(p *Parent, key tpm2.NamedHandle) error) error {
	if k.closed.Load() {
		return ErrClosed
	}
	want, err := tpm2.ObjectName(&k.blob.area)
	if err != nil {
		return fmt.Errorf("tpmkey: name: %w", err)
	}
	return k.dev.withParent(k.blob.parent, func(p *Parent) error {
		rsp, err := tpm2.Load{
			ParentHandle: p.Auth(EncryptInOut),
			InPrivate:    tpm2.TPM2BPrivate{Buffer: k.blob.private},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](k.blob.public),
		}.Execute(p.TPM)
		if err != nil {
			if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCBinding) || errors.Is(err, tpm2.TPMRCSize) ||
				errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCInsufficient) {
				return fmt.Errorf("%w: %w", ErrWrongTPM, err)
			}
			return fmt.Errorf("tpmkey: load key: %w", err)
		}
		defer func() {
			_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(p.TPM)
		}()
		if string(rsp.Name.Buffer) != string(want.Buffer) {
			return fmt.Errorf("%w: the TPM loaded another key", ErrWrongTPM)
		}
		return fn(p, tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name})
	})
}

// Sign implements [crypto.Signer] for SHA-256, SHA-384 and SHA-512: ECDSA, RSA
// PKCS #1 v1.5, and RSA PSS with a salt as long as the hash (the one that TLS
// 1.3 asks for, RFC 8446 section 4.2.3). The signature is verified before it is
// returned, so that a faulty TPM cannot leak the key through a wrong one. The
// random source is the TPM's; rand is not used.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if !k.blob.area.ObjectAttributes.SignEncrypt {
		return nil, fmt.Errorf("%w: signing with a key that was made to decrypt", ErrUnsupported)
	}
	hash := opts.HashFunc()
	alg, err := hashAlg(hash)
	if err != nil {
		return nil, err
	}
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("tpmkey: sign: digest has %d bytes, %s has %d", len(digest), hash, hash.Size())
	}
	scheme, err := k.scheme(alg, opts)
	if err != nil {
		return nil, err
	}
	var sig []byte
	err = k.with(func(p *Parent, key tpm2.NamedHandle) error {
		rsp, err := tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: p.Session(EncryptIn)},
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   scheme,
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(p.TPM)
		switch {
		case errors.Is(err, tpm2.TPMRCHash), errors.Is(err, tpm2.TPMRCScheme), errors.Is(err, tpm2.TPMRCValue):
			return fmt.Errorf("%w: the TPM does not sign with %s: %w", ErrUnsupported, hash, err)
		case err != nil:
			return fmt.Errorf("tpmkey: sign: %w", err)
		}
		sig, err = encodeSignature(rsp.Signature)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !k.verify(hash, digest, sig, opts) {
		return nil, errors.New("tpmkey: sign: the TPM's signature does not verify")
	}
	return sig, nil
}

func (k *Key) scheme(alg tpm2.TPMAlgID, opts crypto.SignerOpts) (tpm2.TPMTSigScheme, error) {
	s := tpm2.TPMAlgECDSA
	pss, isPSS := opts.(*rsa.PSSOptions)
	if _, ok := k.blob.key.(*rsa.PublicKey); ok {
		s = tpm2.TPMAlgRSASSA
		if isPSS {
			s = tpm2.TPMAlgRSAPSS
			if pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != rsa.PSSSaltLengthAuto && pss.SaltLength != opts.HashFunc().Size() {
				return tpm2.TPMTSigScheme{}, fmt.Errorf("%w: PSS salt of %d bytes; a TPM makes it as long as the hash", ErrUnsupported, pss.SaltLength)
			}
		}
	} else if isPSS {
		return tpm2.TPMTSigScheme{}, fmt.Errorf("%w: RSA options for an ECC key", ErrUnsupported)
	}
	return tpm2.TPMTSigScheme{Scheme: s, Details: tpm2.NewTPMUSigScheme(s, &tpm2.TPMSSchemeHash{HashAlg: alg})}, nil
}

func (k *Key) verify(hash crypto.Hash, digest, sig []byte, opts crypto.SignerOpts) bool {
	switch pub := k.blob.key.(type) {
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, hash, digest, sig, &rsa.PSSOptions{SaltLength: pss.SaltLength, Hash: hash}) == nil
		}
		return rsa.VerifyPKCS1v15(pub, hash, digest, sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest, sig)
	}
	return false
}

func encodeSignature(s tpm2.TPMTSignature) ([]byte, error) {
	switch s.SigAlg {
	case tpm2.TPMAlgRSASSA:
		v, err := s.Signature.RSASSA()
		if err != nil {
			return nil, fmt.Errorf("tpmkey: signature: %w", err)
		}
		return v.Sig.Buffer, nil
	case tpm2.TPMAlgRSAPSS:
		v, err := s.Signature.RSAPSS()
		if err != nil {
			return nil, fmt.Errorf("tpmkey: signature: %w", err)
		}
		return v.Sig.Buffer, nil
	case tpm2.TPMAlgECDSA:
		v, err := s.Signature.ECDSA()
		if err != nil {
			return nil, fmt.Errorf("tpmkey: signature: %w", err)
		}
		return asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(v.SignatureR.Buffer), new(big.Int).SetBytes(v.SignatureS.Buffer),
		})
	}
	return nil, fmt.Errorf("tpmkey: signature: algorithm %#x", uint16(s.SigAlg))
}

func hashAlg(h crypto.Hash) (tpm2.TPMAlgID, error) {
	switch h {
	case crypto.SHA256:
		return tpm2.TPMAlgSHA256, nil
	case crypto.SHA384:
		return tpm2.TPMAlgSHA384, nil
	case crypto.SHA512:
		return tpm2.TPMAlgSHA512, nil
	}
	return 0, fmt.Errorf("%w: signing with hash %d; SHA-256, SHA-384 and SHA-512 are", ErrUnsupported, uint(h))
}

// checkPoint refuses a public key that is off its curve or too small.
func checkPoint(key crypto.PublicKey) error {
	switch pub := key.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 {
			return fmt.Errorf("%w: RSA key of %d bits", ErrUnsupported, pub.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if _, err := pub.ECDH(); err != nil {
			return formatError("public key: %v", err)
		}
	default:
		return fmt.Errorf("%w: public key %T", ErrUnsupported, key)
	}
	return nil
}
