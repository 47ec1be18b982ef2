// Package softtpm makes what a TPM would make, in software: the device side for
// benchmarks that measure the verifying side alone, and the forgeries that tests
// need. Only tests import it. It has none of a TPM's protections, which is the
// point: it can also do what a TPM never does.
package softtpm

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/mooringlib/mooring/sco"
)

// TPM is an endorsement key, RSA 2048 or P-256, and an attestation key, P-256.
type TPM struct {
	EK crypto.Signer
	AK *ecdsa.PrivateKey
	// Public changes the attestation key's public area before it is used.
	Public func(*tpm2.TPMTPublic)
	// Attest changes every attestation before it is signed.
	Attest func(*tpm2.TPMSAttest)
	// Release is what an activation returns, instead of solving it.
	Release []byte

	public tpm2.TPMTPublic
}

var _ sco.Signer = (*TPM)(nil)

// New makes a TPM with new keys around an endorsement key.
func New(ek crypto.Signer) (*TPM, error) {
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &TPM{EK: ek, AK: ak}, nil
}

// EndorsementKey is its form in the configuration.
func (t *TPM) EndorsementKey() string {
	der, err := x509.MarshalPKIXPublicKey(t.EK.Public())
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func (t *TPM) area() tpm2.TPMTPublic {
	raw, err := t.AK.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	p := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: raw[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: raw[33:]},
		}),
	}
	if t.Public != nil {
		t.Public(&p)
	}
	return p
}

func (t *TPM) name() tpm2.TPM2BName {
	n, err := tpm2.ObjectName(&t.public)
	if err != nil {
		panic(err)
	}
	return *n
}

// sign signs an attestation.
func (t *TPM) sign(a tpm2.TPMSAttest) (attest, signature []byte, err error) {
	if t.Attest != nil {
		t.Attest(&a)
	}
	attest = tpm2.Marshal(a)
	h := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, t.AK, h[:])
	if err != nil {
		return nil, nil, err
	}
	sig := tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash:       tpm2.TPMAlgSHA256,
		SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))},
		SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))},
	})}
	return attest, tpm2.Marshal(sig), nil
}

// Evidence implements sco.Signer.
func (t *TPM) Evidence(context.Context) (sco.Evidence, error) {
	t.public = t.area()
	der, err := x509.MarshalPKIXPublicKey(t.EK.Public())
	if err != nil {
		return sco.Evidence{}, err
	}
	creation := tpm2.Marshal(tpm2.TPMSCreationData{ParentNameAlg: tpm2.TPMAlgSHA256, ParentName: t.name(), ParentQualifiedName: t.name()})
	sum := sha256.Sum256(creation)
	attest, sig, err := t.sign(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCreation, QualifiedSigner: t.name(),
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{
			ObjectName: t.name(), CreationHash: tpm2.TPM2BDigest{Buffer: sum[:]}}),
	})
	if err != nil {
		return sco.Evidence{}, err
	}
	return sco.Evidence{Kind: sco.EvidenceTPM, EndorsementKey: der, AttestationKey: tpm2.Marshal(t.public),
		CreationData: creation, CreationAttestation: attest, CreationSignature: sig}, nil
}

// Prove implements sco.Signer; all registers are zero.
func (t *TPM) Prove(_ context.Context, c sco.Challenge) (sco.Proof, error) {
	secret := t.Release
	if secret == nil {
		var err error
		if secret, err = t.activate(c.Credential, c.Secret); err != nil {
			return sco.Proof{}, err
		}
	}
	p := sco.Proof{ActivatedSecret: secret}
	var sel [3]byte
	h := sha256.New()
	for _, pcr := range c.PCRs {
		sel[pcr/8] |= 1 << (pcr % 8)
		v := make([]byte, 32)
		h.Write(v)
		p.PCRValues = append(p.PCRValues, v)
	}
	var err error
	p.Quote, p.QuoteSignature, err = t.sign(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, QualifiedSigner: t.name(), ExtraData: tpm2.TPM2BData{Buffer: c.Digest[:]},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: sel[:]}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}}),
	})
	return p, err
}

// activate is TPM2_ActivateCredential (TPM 2.0 part 1, section 24).
func (t *TPM) activate(credential, secret []byte) ([]byte, error) {
	enc, _, err := cut(secret)
	if err != nil {
		return nil, err
	}
	seed, err := t.seed(enc)
	if err != nil {
		return nil, err
	}
	id, _, err := cut(credential)
	if err != nil {
		return nil, err
	}
	_, identity, err := cut(id)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", t.name().Buffer, nil, 128))
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(identity))
	//lint:ignore SA1019 TPMs encrypt credentials with CFB (TPM 2.0 Library, Part 1, section 24).
	cipher.NewCFBDecrypter(block, make([]byte, 16)).XORKeyStream(out, identity)
	v, rest, err := cut(out)
	if err != nil || len(rest) != 0 || len(v) != 32 {
		return nil, errors.New("softtpm: the credential is not for this key")
	}
	return v, nil
}

func (t *TPM) seed(enc []byte) ([]byte, error) {
	switch ek := t.EK.(type) {
	case *rsa.PrivateKey:
		return rsa.DecryptOAEP(sha256.New(), nil, ek, enc, []byte("IDENTITY\x00"))
	case *ecdsa.PrivateKey:
		x, rest, err := cut(enc)
		if err != nil {
			return nil, err
		}
		y, _, err := cut(rest)
		if err != nil {
			return nil, err
		}
		point := append([]byte{4}, append(pad(x), pad(y)...)...)
		peer, err := ecdh.P256().NewPublicKey(point)
		if err != nil {
			return nil, err
		}
		own, err := ek.ECDH()
		if err != nil {
			return nil, err
		}
		z, err := own.ECDH(peer)
		if err != nil {
			return nil, err
		}
		return tpm2.KDFe(crypto.SHA256, z, "IDENTITY", pad(x), own.PublicKey().Bytes()[1:33], 256), nil
	}
	return nil, fmt.Errorf("softtpm: endorsement key %T", t.EK)
}

func pad(b []byte) []byte {
	out := make([]byte, 32)
	copy(out[32-len(b):], b)
	return out
}

// cut takes a TPM2B.
func cut(b []byte) (v, rest []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, errors.New("softtpm: a TPM2B is cut short")
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], nil
}
