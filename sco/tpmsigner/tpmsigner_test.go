package tpmsigner_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"os/exec"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/tpmproof"
	"github.com/mooringlib/mooring/sco/tpmsigner"
)

func newSigner(t *testing.T, tpm *tpmsim.TPM, alg tpmsigner.Algorithm) *tpmsigner.Signer {
	t.Helper()
	s, err := tpmsigner.New(tpmsigner.Config{TPM: tpm, Algorithm: alg})
	require.NoError(t, err)
	return s
}

func TestSignerProvesItsTPM(t *testing.T) {
	ctx := context.Background()
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		for _, provisioned := range []bool{false, true} {
			for name, alg := range map[string]tpmsigner.Algorithm{"any": tpmsigner.Any, "rsa": tpmsigner.RSA, "ecc": tpmsigner.ECC} {
				t.Run(name, func(t *testing.T) {
					tpm := b.New(t)
					if provisioned {
						ca, err := tpmsim.NewEKCA()
						require.NoError(t, err)
						require.NoError(t, tpm.ProvisionEK(ca))
					}
					s := newSigner(t, tpm, alg)
					ev, err := s.Evidence(ctx)
					require.NoError(t, err)
					require.Equal(t, sco.EvidenceTPM, ev.Kind)
					if provisioned {
						require.Len(t, ev.Certificates, 2)
					} else {
						require.Empty(t, ev.Certificates)
					}
					configured, err := tpmsigner.EndorsementKey(ctx, tpm, alg)
					require.NoError(t, err)
					require.Equal(t, base64.StdEncoding.EncodeToString(ev.EndorsementKey), configured)

					var wire bytes.Buffer
					tpm.Wire(func(cmd, rsp []byte) { wire.Write(cmd); wire.Write(rsp) })
					ch, proof := prove(t, s, ev)
					require.Equal(t, ch.Activated, proof.ActivatedSecret)
					require.NotContains(t, wire.String(), string(ch.Activated), "the secret crossed the bus in clear")

					// Nothing is left behind.
					require.Empty(t, handles(t, tpm, 0x80000000))
					require.Empty(t, handles(t, tpm, 0x02000000))
					if !provisioned {
						require.Empty(t, handles(t, tpm, 0x81000000))
					}
				})
			}
		}
	})
}

func prove(t *testing.T, s sco.Signer, ev sco.Evidence) (*tpmproof.Challenge, sco.Proof) {
	t.Helper()
	ek, err := x509.ParsePKIXPublicKey(ev.EndorsementKey)
	require.NoError(t, err)
	ch, err := tpmproof.NewChallenge(evidence(ek, ev))
	require.NoError(t, err)
	var digest [32]byte
	_, _ = rand.Read(digest[:])
	proof, err := s.Prove(context.Background(), sco.Challenge{Digest: digest, Credential: ch.Credential, Secret: ch.Secret, PCRs: []int{0, 7, 16, 23}})
	require.NoError(t, err)
	q := &tpmproof.Quote{Quote: proof.Quote, Signature: proof.QuoteSignature, PCRs: []int{0, 7, 16, 23}, Values: proof.PCRValues}
	require.NoError(t, tpmproof.VerifyQuote(ev.AttestationKey, digest, q))
	return ch, proof
}

func evidence(ek crypto.PublicKey, ev sco.Evidence) *tpmproof.Evidence {
	return &tpmproof.Evidence{EK: ek, AK: ev.AttestationKey, CreationData: ev.CreationData,
		Attestation: ev.CreationAttestation, Signature: ev.CreationSignature}
}

func handles(t *testing.T, tpm *tpmsim.TPM, first uint32) []tpm2.TPMHandle {
	t.Helper()
	out, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(tpm)
	require.NoError(t, err)
	list, err := out.CapabilityData.Data.Handles()
	require.NoError(t, err)
	var same []tpm2.TPMHandle
	for _, h := range list.Handle {
		if uint32(h)>>24 == first>>24 {
			same = append(same, h)
		}
	}
	return same
}

func TestSignerGivesTheSameKeysAfterReboot(t *testing.T) {
	ctx := context.Background()
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		s := newSigner(t, tpm, tpmsigner.Any)
		before, err := s.Evidence(ctx)
		require.NoError(t, err)
		require.NoError(t, tpm.Reset())
		after, err := s.Evidence(ctx)
		require.NoError(t, err)
		require.Equal(t, before.EndorsementKey, after.EndorsementKey)
		prove(t, s, after)
	})
}

// TestEndorsementKeyEqualsTPM2Tools compares with what an operator is told to
// run on a cloud machine.
func TestEndorsementKeyEqualsTPM2Tools(t *testing.T) {
	readpublic, createek := peer.Need(t, "tpm2_readpublic"), peer.Need(t, "tpm2_createek")
	peer.Need(t, "swtpm")
	for _, g := range []string{"rsa", "ecc"} {
		t.Run(g, func(t *testing.T) {
			tpm := tpmsim.New(t)
			if tpm.Spec() == "" {
				t.Skip("the in-process simulator cannot be reached by tpm2-tools")
			}
			tcti := "swtpm:path=" + tpm.Spec()[len("swtpm:"):]
			run := func(arg ...string) []byte {
				out, err := exec.Command(arg[0], append(arg[1:], "-T", tcti)...).CombinedOutput()
				require.NoError(t, err, "%s", out)
				return out
			}
			fresh, err := tpmsigner.EndorsementKey(context.Background(), tpm, map[string]tpmsigner.Algorithm{"rsa": tpmsigner.RSA, "ecc": tpmsigner.ECC}[g])
			require.NoError(t, err)
			run(createek, "-G", g, "-c", "0x81010001")
			out := run(readpublic, "-c", "0x81010001", "-f", "DER", "-o", "/dev/stdout", "-Q")
			want := base64.StdEncoding.EncodeToString(out)
			got, err := tpmsigner.EndorsementKey(context.Background(), tpm, tpmsigner.Any)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, want, fresh, "the key from the template is the one that tpm2-tools makes")
			_, err = sco.ParseEndorsementKey(got)
			require.NoError(t, err)

			// A key that tpm2-tools made proves itself as well.
			s := newSigner(t, tpm, tpmsigner.Any)
			ev, err := s.Evidence(context.Background())
			require.NoError(t, err)
			require.Equal(t, want, base64.StdEncoding.EncodeToString(ev.EndorsementKey))
			prove(t, s, ev)
		})
	}
}

func TestSignerEndsWithItsContext(t *testing.T) {
	tpm := tpmsim.New(t)
	s := newSigner(t, tpm, tpmsigner.Any)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Evidence(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = tpmsigner.New(tpmsigner.Config{})
	require.ErrorContains(t, err, "TPM is missing")
}

func TestProveRejectsForeignCredentials(t *testing.T) {
	tpm, other := tpmsim.New(t), tpmsim.New(t)
	s := newSigner(t, tpm, tpmsigner.Any)
	ev, err := s.Evidence(context.Background())
	require.NoError(t, err)
	theirs, err := newSigner(t, other, tpmsigner.Any).Evidence(context.Background())
	require.NoError(t, err)
	ek, err := x509.ParsePKIXPublicKey(theirs.EndorsementKey)
	require.NoError(t, err)
	ch, err := tpmproof.NewChallenge(evidence(ek, ev))
	require.NoError(t, err)
	_, err = s.Prove(context.Background(), sco.Challenge{Credential: ch.Credential, Secret: ch.Secret})
	require.ErrorContains(t, err, "activating the credential")
	_, err = s.Prove(context.Background(), sco.Challenge{Credential: []byte{0}, Secret: ch.Secret})
	require.ErrorContains(t, err, "credential")
	require.Empty(t, handles(t, tpm, 0x80000000))
}
