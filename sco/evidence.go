package sco

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/mooringlib/mooring/sco/internal/tpmproof"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// evidenceCheck verifies what a router shows of its device identity.
type evidenceCheck struct {
	kind        EvidenceKind
	key         crypto.PublicKey // of a certificate
	lastingKind string           // of the key that the asset-id is bound to; empty for the SSH key
	lasting     string
	challenge   tpmproof.Challenge
	pcrs        []int
}

// begin checks what can be checked before the proof.
func (e *evidenceCheck) begin(a *attempt) error {
	e.kind = EvidenceKind(a.hello.Kind)
	if h := a.hello; e.kind == EvidenceNone && len(h.Certificates) != 0 ||
		e.kind != EvidenceTPM && len(h.EK)+len(h.AK)+len(h.CreationData)+len(h.CreationAttest)+len(h.CreationSigning) != 0 {
		return a.no("the message has fields that evidence %s does not use", e.kind)
	}
	mode := a.config.Mode
	if mode == ModePSKOnly && e.kind == EvidenceSelfSigned {
		// A key that is new at every attempt adds nothing to the secret.
		e.kind = EvidenceNone
	}
	switch {
	case mode == ModeWeak && e.kind == EvidenceNone:
		return a.no("mode weak needs a certificate or a TPM, the router showed none")
	case mode == ModeStrong && e.kind != EvidenceDeviceID && e.kind != EvidenceTPM:
		return a.no("mode strong needs a device ID certificate or a TPM, the router showed %s", e.kind)
	case len(a.node.PCRs) != 0 && e.kind != EvidenceTPM:
		return a.no("the node's PCRs are to be proved by a TPM, the router showed %s", e.kind)
	}
	switch e.kind {
	case EvidenceSelfSigned, EvidenceDeviceID:
		return e.beginCertificate(a, mode)
	case EvidenceTPM:
		return e.beginTPM(a, mode)
	}
	return nil
}

func (e *evidenceCheck) beginCertificate(a *attempt, mode Mode) error {
	if len(a.hello.Certificates) == 0 {
		return a.no("the router showed no certificate")
	}
	chain, err := parseChain(a.hello.Certificates)
	if err != nil {
		return a.no("%v", err)
	}
	leaf := chain[0]
	if err := checkSigningKey(leaf.PublicKey); err != nil {
		return a.no("the device's certificate: %s", strings.TrimPrefix(err.Error(), "sco: "))
	}
	e.key = leaf.PublicKey
	if e.kind != EvidenceDeviceID {
		return nil
	}
	if mode == ModeStrong {
		s := a.snap.settings
		if s.DeviceIDRoots == nil {
			return a.no("no manufacturer roots are configured for device ID certificates")
		}
		if err := verifyChain(chain, s.DeviceIDRoots, s.DeviceIDIntermediates, a.at); err != nil {
			return a.no("the device ID certificate does not chain to a manufacturer's root: %v", err)
		}
		if leaf.Subject.SerialNumber != a.assetID {
			return a.no("the device ID certificate's serialNumber %.140q is not the asset-id", leaf.Subject.SerialNumber)
		}
	}
	e.lastingKind = bindDeviceID
	if e.lasting, err = spkiFingerprint(leaf.PublicKey); err != nil {
		return a.no("%v", err)
	}
	return nil
}

func (e *evidenceCheck) beginTPM(a *attempt, mode Mode) error {
	pub, err := x509.ParsePKIXPublicKey(a.hello.EK)
	if err != nil {
		return a.no("the endorsement key is malformed")
	}
	if err := checkEndorsementKey(pub); err != nil {
		return a.no("%v", err)
	}
	if e.lasting, err = spkiFingerprint(pub); err != nil {
		return a.no("%v", err)
	}
	e.lastingKind = bindEndorsementKey
	if a.node.EndorsementKey == "" {
		if mode == ModeStrong {
			return a.no("mode strong needs the node's endorsement-key in the configuration; the router shows one with SHA-256 %s", e.lasting)
		}
	} else {
		want, err := ParseEndorsementKey(a.node.EndorsementKey)
		if err != nil {
			return a.no("the configured endorsement-key cannot be used")
		}
		// What is challenged is the configured key, not the one that the
		// router shows.
		if eq, ok := want.(interface{ Equal(crypto.PublicKey) bool }); !ok || !eq.Equal(pub) {
			return a.no("the router's endorsement key (SHA-256 %s) is not the configured one", e.lasting)
		}
		pub = want
	}
	if s := a.snap.settings; s.EndorsementRoots != nil && mode == ModeStrong {
		if err := checkEKCertificates(a.hello.Certificates, pub, s, a.at); err != nil {
			return a.no("%v", err)
		}
	}
	for p := range a.node.PCRs {
		e.pcrs = append(e.pcrs, p)
	}
	slices.Sort(e.pcrs)
	ch, err := tpmproof.NewChallenge(&tpmproof.Evidence{
		EK: pub, AK: a.hello.AK, CreationData: a.hello.CreationData,
		Attestation: a.hello.CreationAttest, Signature: a.hello.CreationSigning,
	})
	if err != nil {
		return a.no("%v", err)
	}
	e.challenge = *ch
	return nil
}

// finish verifies the proof.
func (e *evidenceCheck) finish(a *attempt, m *wire.Proof, digest [32]byte) error {
	switch e.kind {
	case EvidenceSelfSigned, EvidenceDeviceID:
		if err := verifyDigest(e.key, digest[:], m.DeviceSignature); err != nil {
			return a.no("%s", strings.TrimPrefix(err.Error(), "sco: "))
		}
	case EvidenceTPM:
		q := &tpmproof.Quote{Quote: m.Quote, Signature: m.QuoteSignature, PCRs: e.pcrs, Values: m.PCRValues}
		if err := tpmproof.VerifyQuote(a.hello.AK, digest, q); err != nil {
			return a.no("%v", err)
		}
		for i, p := range e.pcrs {
			if got := hex.EncodeToString(m.PCRValues[i]); !strings.EqualFold(got, a.node.PCRs[p]) {
				return a.no("PCR %d is %s, not the configured %s", p, got, strings.ToLower(a.node.PCRs[p]))
			}
		}
	}
	return nil
}
