// Package tpmproof is the verifying side of the TPM evidence: it checks that an
// attestation key is one that can attest only, challenges the TPM to prove that
// this key and the endorsement key are in the same TPM (credential activation),
// and verifies the quote that the attestation key makes over the transcript.
package tpmproof

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
)

// Evidence is what the router shows.
type Evidence struct {
	EK crypto.PublicKey
	// AK is a TPMT_PUBLIC, CreationData a TPMS_CREATION_DATA, Attestation a
	// TPMS_ATTEST, Signature a TPMT_SIGNATURE.
	AK, CreationData, Attestation, Signature []byte
}

// Challenge is a TPM's task, and the secret that solves it.
type Challenge struct {
	// Credential is a TPM2B_ID_OBJECT, Secret a TPM2B_ENCRYPTED_SECRET.
	Credential, Secret []byte
	// Activated is what the TPM releases.
	Activated []byte
}

// NewChallenge checks the attestation key and challenges the TPM.
func NewChallenge(e *Evidence) (*Challenge, error) {
	if err := checkAK(e.AK); err != nil {
		return nil, err
	}
	if err := checkCreation(e); err != nil {
		return nil, err
	}
	secret, cred, err := e.params().Generate()
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	return &Challenge{Credential: cred.Credential, Secret: cred.Secret, Activated: secret}, nil
}

func (e *Evidence) params() *attest.ActivationParameters {
	return &attest.ActivationParameters{
		EK: e.EK,
		AK: attest.AttestationParameters{
			Public:            e.AK,
			CreateData:        e.CreationData,
			CreateAttestation: e.Attestation,
			CreateSignature:   e.Signature,
		},
	}
}

// exact decodes a TPM structure and insists that it encodes to the same bytes,
// so that no other decoder can see something else in them.
func exact[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte) (*T, error) {
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, errors.New("not in its canonical form")
	}
	return v, nil
}

// checkAK demands a key that signs only what its own TPM has made: otherwise a
// key whose private part is known could be activated on any TPM and then vouch
// for anything.
func checkAK(b []byte) error {
	pub, err := exact[tpm2.TPMTPublic](b)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	a := pub.ObjectAttributes
	switch {
	case !a.Restricted || !a.SignEncrypt || a.Decrypt || a.X509Sign:
		return errors.New("attestation key: not a restricted signing key")
	case !a.FixedTPM || !a.FixedParent:
		return errors.New("attestation key: not fixed to its TPM")
	case !a.SensitiveDataOrigin:
		return errors.New("attestation key: not made by its TPM")
	case pub.NameAlg != tpm2.TPMAlgSHA256:
		return errors.New("attestation key: its name is not SHA-256")
	}
	bad := errors.New("attestation key: neither ECDSA P-256 nor RSASSA 2048 with SHA-256")
	switch pub.Type {
	case tpm2.TPMAlgECC:
		p, err := pub.Parameters.ECCDetail()
		if err != nil || p.CurveID != tpm2.TPMECCNistP256 || p.Scheme.Scheme != tpm2.TPMAlgECDSA {
			return bad
		}
		if s, err := p.Scheme.Details.ECDSA(); err != nil || s.HashAlg != tpm2.TPMAlgSHA256 {
			return bad
		}
	case tpm2.TPMAlgRSA:
		p, err := pub.Parameters.RSADetail()
		if err != nil || p.KeyBits != 2048 || p.Exponent != 0 && p.Exponent != 65537 || p.Scheme.Scheme != tpm2.TPMAlgRSASSA {
			return bad
		}
		if s, err := p.Scheme.Details.RSASSA(); err != nil || s.HashAlg != tpm2.TPMAlgSHA256 {
			return bad
		}
		if n, err := pub.Unique.RSA(); err != nil || len(n.Buffer) != 256 {
			return bad
		}
	default:
		return bad
	}
	return nil
}

// checkCreation keeps what go-attestation decodes within what it expects.
func checkCreation(e *Evidence) error {
	att, err := exact[tpm2.TPMSAttest](e.Attestation)
	if err != nil {
		return fmt.Errorf("creation attestation: %w", err)
	}
	if att.Magic != tpm2.TPMGeneratedValue || att.Type != tpm2.TPMSTAttestCreation {
		return errors.New("creation attestation: not one")
	}
	if _, err := exact[tpm2.TPMSCreationData](e.CreationData); err != nil {
		return fmt.Errorf("creation data: %w", err)
	}
	if _, err := exact[tpm2.TPMTSignature](e.Signature); err != nil {
		return fmt.Errorf("creation signature: %w", err)
	}
	return nil
}

// Quote is the TPM's answer.
type Quote struct {
	// Quote is a TPMS_ATTEST, Signature a TPMT_SIGNATURE.
	Quote, Signature []byte
	// PCRs are the registers that were asked for, Values what the router says
	// that they hold, in the same order.
	PCRs   []int
	Values [][]byte
}

// VerifyQuote checks that the attestation key ak quoted exactly the registers
// asked for, with digest as qualifying data, and that they hold q.Values.
func VerifyQuote(ak []byte, digest [32]byte, q *Quote) error {
	att, err := exact[tpm2.TPMSAttest](q.Quote)
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	if att.Magic != tpm2.TPMGeneratedValue || att.Type != tpm2.TPMSTAttestQuote {
		return errors.New("quote: not one")
	}
	if subtle.ConstantTimeCompare(att.ExtraData.Buffer, digest[:]) != 1 {
		return errors.New("quote: not made for this connection")
	}
	info, err := att.Attested.Quote()
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	if err := checkSelection(info.PCRSelect, q.PCRs); err != nil {
		return err
	}
	if _, err := exact[tpm2.TPMTSignature](q.Signature); err != nil {
		return fmt.Errorf("quote signature: %w", err)
	}
	if len(q.Values) != len(q.PCRs) {
		return errors.New("quote: not one value for each register")
	}
	pcrs := make([]attest.PCR, len(q.PCRs))
	for i, p := range q.PCRs {
		if len(q.Values[i]) != sha256.Size {
			return fmt.Errorf("quote: register %d is not SHA-256", p)
		}
		pcrs[i] = attest.PCR{Index: p, Digest: q.Values[i], DigestAlg: crypto.SHA256}
	}
	pub, err := attest.ParseAKPublic(ak)
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	if err := pub.Verify(attest.Quote{Quote: q.Quote, Signature: q.Signature}, pcrs, digest[:]); err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	return nil
}

// checkSelection wants the SHA-256 bank alone, with exactly these registers.
func checkSelection(sel tpm2.TPMLPCRSelection, pcrs []int) error {
	if len(sel.PCRSelections) != 1 || sel.PCRSelections[0].Hash != tpm2.TPMAlgSHA256 {
		return errors.New("quote: not over the SHA-256 bank")
	}
	var want [3]byte
	for _, p := range pcrs {
		want[p/8] |= 1 << (p % 8)
	}
	got := sel.PCRSelections[0].PCRSelect
	for i := range max(len(got), len(want)) {
		var g, w byte
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return errors.New("quote: not over the registers that were asked for")
		}
	}
	return nil
}
