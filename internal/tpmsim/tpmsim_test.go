package tpmsim_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func primary(t *testing.T, tpm *tpmsim.TPM) []byte {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
	require.NoError(t, err)
	_, err = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(tpm)
	require.NoError(t, err)
	return rsp.Name.Buffer
}

func TestEachTPMIsNewAndKeepsItsSeedOverReset(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		first, err := b.Open()
		require.NoError(t, err)
		before := primary(t, first)
		require.NoError(t, first.Reset())
		require.Equal(t, before, primary(t, first))
		require.NoError(t, first.PowerCycle())
		require.Equal(t, before, primary(t, first))
		require.NoError(t, first.Clear())
		require.NotEqual(t, before, primary(t, first), "a cleared TPM has another seed")
		require.NoError(t, first.Close())
		require.NoError(t, first.Close())
		_, err = first.Send(nil)
		require.Error(t, err)

		second := b.New(t)
		require.NotEqual(t, before, primary(t, second))
	})
}

func TestResetForgetsTransientState(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		extend := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(7), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
				HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{1}, 32)}}},
		}
		pcr7 := func() []byte {
			rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(7)}}}}.Execute(tpm)
			require.NoError(t, err)
			return rsp.PCRValues.Digests[0].Buffer
		}
		clean := pcr7()
		_, err := extend.Execute(tpm)
		require.NoError(t, err)
		require.NotEqual(t, clean, pcr7())
		require.NoError(t, tpm.Reset())
		require.Equal(t, clean, pcr7())
	})
}

func TestEndorsementKeysForGoAttestation(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		ca, err := tpmsim.NewEKCA()
		require.NoError(t, err)
		require.NoError(t, tpm.ProvisionEK(ca))

		a, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: tpm.CommandChannel()})
		require.NoError(t, err)
		defer a.Close()
		eks, err := a.EKs()
		require.NoError(t, err)
		require.NotEmpty(t, eks)
		require.IsType(t, &rsa.PublicKey{}, eks[0].Public)
		require.NotNil(t, eks[0].Certificate)
		require.NoError(t, eks[0].Certificate.CheckSignatureFrom(ca.Certificate))

		read, err := tpm2.ReadPublic{ObjectHandle: tpmsim.RSAEKHandle}.Execute(tpm)
		require.NoError(t, err)
		public, err := read.OutPublic.Contents()
		require.NoError(t, err)
		pub, err := tpm2.Pub(*public)
		require.NoError(t, err)
		require.True(t, pub.(*rsa.PublicKey).Equal(eks[0].Public))

		read, err = tpm2.ReadPublic{ObjectHandle: tpmsim.ECCEKHandle}.Execute(tpm)
		require.NoError(t, err)
		public, err = read.OutPublic.Contents()
		require.NoError(t, err)
		pub, err = tpm2.Pub(*public)
		require.NoError(t, err)
		require.IsType(t, &ecdsa.PublicKey{}, pub)
	})
}

func TestEndorsementKeyForTPM2Tools(t *testing.T) {
	tool := peer.Need(t, "tpm2_readpublic")
	tpm := tpmsim.New(t)
	require.NoError(t, tpm.ProvisionEK(nil))
	out := filepath.Join(t.TempDir(), "ek.der")
	cmd := exec.Command(tool, "-T", "swtpm:path="+tpm.Spec()[len("swtpm:"):], "-c", "0x81010001", "-f", "DER", "-o", out, "-Q")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	der, err := os.ReadFile(out)
	require.NoError(t, err)
	theirs, err := x509.ParsePKIXPublicKey(der)
	require.NoError(t, err)
	read, err := tpm2.ReadPublic{ObjectHandle: tpmsim.RSAEKHandle}.Execute(tpm)
	require.NoError(t, err)
	public, err := read.OutPublic.Contents()
	require.NoError(t, err)
	ours, err := tpm2.Pub(*public)
	require.NoError(t, err)
	require.True(t, ours.(*rsa.PublicKey).Equal(theirs))
}

func TestSeveralAtOnceAndConcurrentUse(t *testing.T) {
	a, b := tpmsim.New(t), tpmsim.New(t)
	var seen int
	a.Wire(func(command, response []byte) { seen++ })
	var wg sync.WaitGroup
	for range 8 {
		for _, tpm := range []*tpmsim.TPM{a, b} {
			wg.Go(func() {
				rsp, err := tpm2.GetRandom{BytesRequested: 16}.Execute(tpm)
				if err != nil || len(rsp.RandomBytes.Buffer) != 16 {
					t.Errorf("random bytes: %v", err)
				}
			})
		}
	}
	wg.Wait()
	require.Equal(t, 8, seen)
}
