package sco_test

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

func tpmSigner(tb testing.TB, tpm *tpmsim.TPM, alg tpmsigner.Algorithm) sco.Signer {
	tb.Helper()
	s, err := tpmsigner.New(tpmsigner.Config{TPM: tpm, Algorithm: alg})
	require.NoError(tb, err)
	return s
}

func endorsementKey(tb testing.TB, tpm *tpmsim.TPM, alg tpmsigner.Algorithm) string {
	tb.Helper()
	s, err := tpmsigner.EndorsementKey(context.Background(), tpm, alg)
	require.NoError(tb, err)
	return s
}

func withEK(ek string) func(*sco.Router) {
	return func(r *sco.Router) { r.Nodes[0].EndorsementKey = ek }
}

func TestOnboardWithTPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for name, alg := range map[string]tpmsigner.Algorithm{"rsa": tpmsigner.RSA, "ecc": tpmsigner.ECC} {
			t.Run(name, func(t *testing.T) {
				tpm := b.New(t)
				ek := endorsementKey(t, tpm, alg)
				w := newWorld(t)
				for mode, change := range map[sco.Mode][]func(*sco.Router){
					sco.ModePSKOnly: nil,
					sco.ModeWeak:    nil,
					sco.ModeStrong:  {withEK(ek)},
				} {
					router := mode.String()
					w.router(router, mode, change...)
					_, err := w.onboard(t.TempDir(), w.token(router), tpmSigner(t, tpm, alg))
					require.NoError(t, err)
					s := w.node(router, router+"-0").Status
					require.Equal(t, sco.StateKeysExchanged, s.State)
					require.Equal(t, sco.EvidenceTPM, s.Evidence)
					require.Equal(t, "endorsement-key", s.Binding.Kind)
				}
			})
		}
	})
}

// TestOnboardWithDeviceIDInTPM has the device ID's key in the TPM.
func TestOnboardWithDeviceIDInTPM(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		maker := newAuthority(t, "maker")
		w := newWorld(t)
		w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
		w.router("r", sco.ModeStrong)
		dev, err := tpmkey.New(tpmkey.Config{TPM: b.New(t)})
		require.NoError(t, err)
		blob, err := dev.Create(tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
		require.NoError(t, err)
		key, err := dev.Load(blob)
		require.NoError(t, err)
		_, err = w.onboard(t.TempDir(), w.token("r"), deviceID(t, maker, key, "r-0"))
		require.NoError(t, err)
		require.Equal(t, "device-id", w.node("r", "r-0").Status.Binding.Kind)
	})
}

func TestStrongTPMNeedsTheConfiguredEndorsementKey(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		mine, other := b.New(t), tpmsim.New(t)
		w := newWorld(t)
		w.router("r", sco.ModeStrong)
		_, err := w.onboard(t.TempDir(), w.token("r"), tpmSigner(t, mine, tpmsigner.Any))
		w.refused(err, "r", "r-0", "needs the node's endorsement-key")
		w.router("r", sco.ModeStrong, withEK(endorsementKey(t, other, tpmsigner.Any)))
		_, err = w.onboard(t.TempDir(), w.token("r"), tpmSigner(t, mine, tpmsigner.Any))
		w.refused(err, "r", "r-0", "is not the configured one")
		// In weak mode a configured key counts as well.
		w.router("r", sco.ModeWeak)
		_, err = w.onboard(t.TempDir(), w.token("r"), tpmSigner(t, mine, tpmsigner.Any))
		w.refused(err, "r", "r-0", "is not the configured one")
		_, err = w.onboard(t.TempDir(), w.token("r"), tpmSigner(t, other, tpmsigner.Any))
		require.NoError(t, err)
	})
}

func TestEndorsementKeyCertificates(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		maker, err := tpmsim.NewEKCA()
		require.NoError(t, err)
		stranger, err := tpmsim.NewEKCA()
		require.NoError(t, err)
		pool := func(ca *tpmsim.EKCA) *x509.CertPool {
			p := x509.NewCertPool()
			p.AddCert(ca.Certificate)
			return p
		}
		w := newWorld(t)
		w.router("r", sco.ModeStrong, withEK(endorsementKey(t, tpm, tpmsigner.RSA)))
		w.change(func(s *sco.Settings) { s.EndorsementRoots = pool(maker) })
		dir := t.TempDir()
		_, err = w.onboard(dir, w.token("r"), tpmSigner(t, tpm, tpmsigner.RSA))
		w.refused(err, "r", "r-0", "no certificate for its endorsement key")

		require.NoError(t, tpm.ProvisionEK(maker))
		for _, alg := range []tpmsigner.Algorithm{tpmsigner.RSA, tpmsigner.ECC} {
			w.router("r", sco.ModeStrong, withEK(endorsementKey(t, tpm, alg)))
			_, err = w.onboard(dir, w.token("r"), tpmSigner(t, tpm, alg))
			require.NoError(t, err)
			require.NoError(t, w.reg.Release(context.Background(), "r", "r-0"))
		}

		w.change(func(s *sco.Settings) { s.EndorsementRoots = pool(stranger) })
		_, err = w.onboard(dir, w.token("r"), tpmSigner(t, tpm, tpmsigner.ECC))
		w.refused(err, "r", "r-0", "does not chain to a TPM maker's root")
	})
}

func TestPCRPolicy(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		extend := func(pcr tpm2.TPMHandle, by byte) string {
			_, err := tpm2.PCRExtend{
				PCRHandle: tpm2.AuthHandle{Handle: pcr, Auth: tpm2.PasswordAuth(nil)},
				Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
					HashAlg: tpm2.TPMAlgSHA256, Digest: append(make([]byte, 31), by)}}},
			}.Execute(tpm)
			require.NoError(t, err)
			out, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(pcr))}}}}.Execute(tpm)
			require.NoError(t, err)
			return hex.EncodeToString(out.PCRValues.Digests[0].Buffer)
		}
		want := map[int]string{0: extend(0, 1), 7: extend(7, 2)}
		w := newWorld(t)
		w.router("r", sco.ModeStrong, withEK(endorsementKey(t, tpm, tpmsigner.Any)), func(r *sco.Router) { r.Nodes[0].PCRs = want })
		dir := t.TempDir()
		_, err := w.onboard(dir, w.token("r"), tpmSigner(t, tpm, tpmsigner.Any))
		require.NoError(t, err)

		extend(7, 3)
		_, err = w.onboard(dir, w.token("r"), tpmSigner(t, tpm, tpmsigner.Any))
		w.refused(err, "r", "r-0", "PCR 7 is")
		require.NotContains(t, w.node("r", "r-0").Status.LastError, "PCR 0")

		// Nobody gets around the policy with another kind of evidence.
		w.router("r", sco.ModePSKOnly)
		_, err = w.onboard(dir, w.token("r"), sco.SelfSigned())
		w.refused(err, "r", "r-0", "PCRs are to be proved by a TPM")
	})
}

// attestSigner is a device side that is made of go-attestation alone, as another
// implementation might be.
type attestSigner struct {
	t   *testing.T
	tpm *attest.TPM
	ak  *attest.AK
	ek  attest.EK
}

func (s *attestSigner) Evidence(context.Context) (sco.Evidence, error) {
	p := s.ak.AttestationParameters()
	der, err := x509.MarshalPKIXPublicKey(s.ek.Public)
	return sco.Evidence{Kind: sco.EvidenceTPM, EndorsementKey: der, AttestationKey: p.Public, CreationData: p.CreateData,
		CreationAttestation: p.CreateAttestation, CreationSignature: p.CreateSignature}, err
}

func (s *attestSigner) Prove(_ context.Context, c sco.Challenge) (sco.Proof, error) {
	secret, err := s.ak.ActivateCredentialWithEK(s.tpm, attest.EncryptedCredential{Credential: c.Credential, Secret: c.Secret}, s.ek)
	if err != nil {
		return sco.Proof{}, err
	}
	q, err := s.ak.QuotePCRs(s.tpm, c.Digest[:], attest.HashSHA256, c.PCRs)
	if err != nil {
		return sco.Proof{}, err
	}
	return sco.Proof{ActivatedSecret: secret, Quote: q.Quote, QuoteSignature: q.Signature}, nil
}

func TestInteropWithGoAttestation(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for _, alg := range []attest.Algorithm{attest.RSA, attest.ECDSA} {
			t.Run(string(alg), func(t *testing.T) {
				tpm := b.New(t)
				at, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: tpm.CommandChannel()})
				require.NoError(t, err)
				ak, err := at.NewAK(&attest.AKConfig{Algorithm: alg})
				require.NoError(t, err)
				eks, err := at.EKs()
				require.NoError(t, err)
				w := newWorld(t)
				w.router("r", sco.ModeStrong, withEK(endorsementKey(t, tpm, tpmsigner.RSA)))
				_, err = w.onboard(t.TempDir(), w.token("r"), &attestSigner{t, at, ak, eks[0]})
				require.NoError(t, err)
			})
		}
	})
}
