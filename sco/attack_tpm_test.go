package sco_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/softtpm"
	"github.com/mooringlib/mooring/sco/internal/wire"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

func softTPM(tb testing.TB) *softtpm.TPM {
	tb.Helper()
	s, err := softtpm.New(sharedRSA(tb))
	require.NoError(tb, err)
	return s
}

// Cuckoo: a genuine TPM that is not the configured one, and the configured one's
// public key shown by a machine that does not have it.
func TestAttackCuckooTPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		victim, cuckoo := b.New(t), tpmsim.New(t)
		w := newWorld(t)
		w.router("r", sco.ModeStrong, withEK(endorsementKey(t, victim, tpmsigner.Any)))
		token := w.token("r")
		_, err := w.onboard(t.TempDir(), token, tpmSigner(t, cuckoo, tpmsigner.Any))
		w.refused(err, "r", "r-0", "is not the configured one")

		real, err := tpmSigner(t, victim, tpmsigner.Any).Evidence(context.Background())
		require.NoError(t, err)
		// The attacker shows the victim's endorsement key and its own
		// attestation key, and guesses the secret.
		soft := softTPM(t)
		soft.Release = make([]byte, 32)
		_, err = w.onboard(t.TempDir(), token, &splitSigner{soft, func(ev *sco.Evidence) { ev.EndorsementKey = real.EndorsementKey }})
		w.refused(err, "r", "r-0", "not in the same TPM")
		// Or the victim's attestation key as well, seen in another run.
		_, err = w.onboard(t.TempDir(), token, &splitSigner{soft, func(ev *sco.Evidence) { *ev = real }})
		w.refused(err, "r", "r-0", "not in the same TPM")
		w.noRefusalYet("r")
		_, err = w.onboard(t.TempDir(), token, tpmSigner(t, victim, tpmsigner.Any))
		require.NoError(t, err)
	})
}

// splitSigner changes the evidence.
type splitSigner struct {
	sco.Signer
	change func(*sco.Evidence)
}

func (s *splitSigner) Evidence(ctx context.Context) (sco.Evidence, error) {
	ev, err := s.Signer.Evidence(ctx)
	s.change(&ev)
	return ev, err
}

// Unrestricted attestation key: the configured TPM itself holds a key that signs
// anything.
func TestAttackUnrestrictedKeyInARealTPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		w := newWorld(t)
		w.router("r", sco.ModeStrong, withEK(endorsementKey(t, tpm, tpmsigner.Any)))
		template := tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
				Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
					Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
				CurveID: tpm2.TPMECCNistP256,
			}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
		}
		busy := patient{tpm}
		key, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(template),
		}.Execute(busy)
		require.NoError(t, err)
		out, err := tpm2.CertifyCreation{
			SignHandle:   tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			CreationHash: key.CreationHash, CreationTicket: key.CreationTicket,
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(busy)
		require.NoError(t, err)
		_, _ = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(tpm)
		_, err = w.onboard(t.TempDir(), w.token("r"), &splitSigner{tpmSigner(t, tpm, tpmsigner.Any), func(ev *sco.Evidence) {
			ev.AttestationKey, ev.CreationData = key.OutPublic.Bytes(), key.CreationData.Bytes()
			ev.CreationAttestation, ev.CreationSignature = out.CertifyInfo.Bytes(), tpm2.Marshal(out.Signature)
		}})
		w.refused(err, "r", "r-0", "not a restricted signing key")
	})
}

// patient sends a command again while the TPM is too busy to begin it.
type patient struct{ tpm transport.TPM }

func (p patient) Send(cmd []byte) ([]byte, error) {
	for {
		rsp, err := p.tpm.Send(cmd)
		if err != nil || len(rsp) < 10 || tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) != tpm2.TPMRCRetry {
			return rsp, err
		}
	}
}

// Unrestricted attestation key: every attribute counts, and so does every field
// of what the key signs.
func TestAttackForgedAttestations(t *testing.T) {
	w := newWorld(t)
	good := softTPM(t)
	w.router("r", sco.ModeStrong, withEK(good.EndorsementKey()))
	token := w.token("r")
	_, err := w.onboard(t.TempDir(), token, good)
	require.NoError(t, err, "the software TPM is good enough where nothing is changed")
	require.NoError(t, w.reg.Release(context.Background(), "r", "r-0"))

	attr := func(f func(*tpm2.TPMAObject)) func(*softtpm.TPM) {
		return func(s *softtpm.TPM) { s.Public = func(p *tpm2.TPMTPublic) { f(&p.ObjectAttributes) } }
	}
	attest := func(typ tpm2.TPMST, f func(*tpm2.TPMSAttest)) func(*softtpm.TPM) {
		return func(s *softtpm.TPM) {
			s.Attest = func(a *tpm2.TPMSAttest) {
				if a.Type == typ {
					f(a)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*softtpm.TPM)
		reason string
	}{
		"unrestricted":          {attr(func(a *tpm2.TPMAObject) { a.Restricted = false }), "not a restricted signing key"},
		"also decrypts":         {attr(func(a *tpm2.TPMAObject) { a.Decrypt = true }), "not a restricted signing key"},
		"does not sign":         {attr(func(a *tpm2.TPMAObject) { a.SignEncrypt = false }), "not a restricted signing key"},
		"leaves its TPM":        {attr(func(a *tpm2.TPMAObject) { a.FixedTPM = false }), "not fixed to its TPM"},
		"leaves its parent":     {attr(func(a *tpm2.TPMAObject) { a.FixedParent = false }), "not fixed to its TPM"},
		"made outside":          {attr(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false }), "not made by its TPM"},
		"weak name":             {func(s *softtpm.TPM) { s.Public = func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 } }, "name is not SHA-256"},
		"creation of a quote":   {attest(tpm2.TPMSTAttestCreation, func(a *tpm2.TPMSAttest) { asQuote(a) }), "creation attestation: not one"},
		"other creation data":   {attest(tpm2.TPMSTAttestCreation, func(a *tpm2.TPMSAttest) { otherCreation(a) }), "different public key"},
		"quote of nothing":      {attest(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = nil }), "not made for this connection"},
		"quote of another run":  {attest(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = bytes.Repeat([]byte{7}, 32) }), "not made for this connection"},
		"quote is not a quote":  {attest(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { asCreation(a) }), "quote: not one"},
		"quote of other PCRs":   {attest(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { selectPCR(a, tpm2.TPMAlgSHA256, 4) }), "registers that were asked for"},
		"quote of another bank": {attest(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { selectPCR(a, tpm2.TPMAlgSHA1, 0) }), "not over the SHA-256 bank"},
	} {
		t.Run(name, func(t *testing.T) {
			s := softTPM(t)
			c.change(s)
			_, err := w.onboard(t.TempDir(), token, s)
			w.refused(err, "r", "r-0", c.reason)
			w.noRefusalYet("r")
		})
	}
}

func asQuote(a *tpm2.TPMSAttest) {
	a.Type = tpm2.TPMSTAttestQuote
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
}

func asCreation(a *tpm2.TPMSAttest) {
	a.Type = tpm2.TPMSTAttestCreation
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{})
}

func otherCreation(a *tpm2.TPMSAttest) {
	info, err := a.Attested.Creation()
	if err == nil {
		info.CreationHash.Buffer = bytes.Repeat([]byte{9}, 32)
		a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, info)
	}
}

func selectPCR(a *tpm2.TPMSAttest, bank tpm2.TPMAlgID, bits byte) {
	info, err := a.Attested.Quote()
	if err == nil {
		info.PCRSelect.PCRSelections[0] = tpm2.TPMSPCRSelection{Hash: bank, PCRSelect: []byte{bits, 0, 0}}
		a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, info)
	}
}

// Cut and paste, replay: a quote is good for its own connection only, even when
// the TPM is the same and the attacker has the secret and the SSH key.
func TestAttackQuoteOfAnotherConnection(t *testing.T) {
	w := newWorld(t)
	soft := softTPM(t)
	w.router("r", sco.ModeStrong, withEK(soft.EndorsementKey()))
	token := w.token("r").Reveal()
	first := w.mallory(token, soft)
	first.sendHello(nil)
	first.readChallenge()
	old := first.honestProof()

	m := w.mallory(token, soft)
	m.sendHello(nil)
	m.readChallenge()
	p := m.honestProof()
	p.Quote, p.QuoteSignature = old.Quote, old.QuoteSignature
	m.sendProof(p)
	m.refused()
	require.Contains(t, w.events.reason(t), "not made for this connection")

	// A quote by another key than the activated one.
	m = w.mallory(token, soft)
	m.sendHello(nil)
	m.readChallenge()
	other := softTPM(t)
	_, err := other.Evidence(context.Background())
	require.NoError(t, err)
	p = m.honestProof()
	other.Release = []byte{1}
	forged, err := other.Prove(context.Background(), sco.Challenge{Digest: m.tr.Digest(wire.RoleDevice)})
	require.NoError(t, err)
	p.Quote, p.QuoteSignature = forged.Quote, forged.QuoteSignature
	m.sendProof(p)
	m.refused()
	require.Contains(t, w.events.reason(t), "quote: invalid quote signature")
	w.noRefusalYet("r")
}

// The challenge's secret never comes back in clear, and a proof without it is
// nothing.
func TestSoftTPMWithECCEndorsementKey(t *testing.T) {
	w := newWorld(t)
	s, err := softtpm.New(ecKey(t, elliptic.P256()))
	require.NoError(t, err)
	w.router("r", sco.ModeStrong, withEK(s.EndorsementKey()))
	_, err = w.onboard(t.TempDir(), w.token("r"), s)
	require.NoError(t, err)
	require.NoError(t, w.reg.Release(context.Background(), "r", "r-0"))
	s.Release = make([]byte, 32)
	_, err = w.onboard(t.TempDir(), w.token("r"), s)
	w.refused(err, "r", "r-0", "not in the same TPM")
}
