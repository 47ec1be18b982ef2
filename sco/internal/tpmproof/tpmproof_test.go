package tpmproof_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/softtpm"
	"github.com/mooringlib/mooring/sco/internal/tpmproof"
)

func device(t testing.TB) (*softtpm.TPM, *tpmproof.Evidence) {
	t.Helper()
	ek, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s, err := softtpm.New(ek)
	require.NoError(t, err)
	ev, err := s.Evidence(context.Background())
	require.NoError(t, err)
	return s, &tpmproof.Evidence{EK: ek.Public(), AK: ev.AttestationKey, CreationData: ev.CreationData,
		Attestation: ev.CreationAttestation, Signature: ev.CreationSignature}
}

func TestTruncationAndTrailingBytes(t *testing.T) {
	s, good := device(t)
	ch, err := tpmproof.NewChallenge(good)
	require.NoError(t, err)
	for name, field := range map[string]func(*tpmproof.Evidence) *[]byte{
		"AK":          func(e *tpmproof.Evidence) *[]byte { return &e.AK },
		"data":        func(e *tpmproof.Evidence) *[]byte { return &e.CreationData },
		"attestation": func(e *tpmproof.Evidence) *[]byte { return &e.Attestation },
		"signature":   func(e *tpmproof.Evidence) *[]byte { return &e.Signature },
	} {
		e := *good
		whole := *field(&e)
		for n := range len(whole) {
			*field(&e) = whole[:n:n]
			_, err := tpmproof.NewChallenge(&e)
			require.Error(t, err, "%s cut to %d bytes", name, n)
		}
		*field(&e) = append(whole[:len(whole):len(whole)], 0)
		_, err := tpmproof.NewChallenge(&e)
		require.ErrorContains(t, err, "canonical", name)
	}
	p, err := s.Prove(context.Background(), sco.Challenge{Digest: [32]byte{5}, Credential: ch.Credential, Secret: ch.Secret, PCRs: []int{3}})
	require.NoError(t, err)
	require.Equal(t, ch.Activated, p.ActivatedSecret)
	q := &tpmproof.Quote{Quote: p.Quote, Signature: p.QuoteSignature, PCRs: []int{3}, Values: p.PCRValues}
	require.NoError(t, tpmproof.VerifyQuote(good.AK, [32]byte{5}, q))
	require.Error(t, tpmproof.VerifyQuote(good.AK, [32]byte{6}, q))
	for name, change := range map[string]func(*tpmproof.Quote){
		"another value":   func(q *tpmproof.Quote) { q.Values = [][]byte{make([]byte, 31)} },
		"no value":        func(q *tpmproof.Quote) { q.Values = nil },
		"wrong value":     func(q *tpmproof.Quote) { q.Values = [][]byte{append(make([]byte, 31), 1)} },
		"other registers": func(q *tpmproof.Quote) { q.PCRs = []int{4} },
		"no registers":    func(q *tpmproof.Quote) { q.PCRs, q.Values = nil, nil },
	} {
		bad := *q
		change(&bad)
		require.Error(t, tpmproof.VerifyQuote(good.AK, [32]byte{5}, &bad), name)
	}
	for n := range len(p.Quote) {
		bad := *q
		bad.Quote = p.Quote[:n:n]
		require.Error(t, tpmproof.VerifyQuote(good.AK, [32]byte{5}, &bad))
	}
	for n := range len(p.QuoteSignature) {
		bad := *q
		bad.Signature = p.QuoteSignature[:n:n]
		require.Error(t, tpmproof.VerifyQuote(good.AK, [32]byte{5}, &bad))
	}
}

func FuzzEvidence(f *testing.F) {
	s, good := device(f)
	p, err := s.Prove(context.Background(), sco.Challenge{Credential: nil, PCRs: []int{1}})
	if err != nil {
		s.Release = make([]byte, 32)
		p, err = s.Prove(context.Background(), sco.Challenge{PCRs: []int{1}})
	}
	require.NoError(f, err)
	f.Add(good.AK, good.CreationData, good.Attestation, good.Signature, p.Quote, p.QuoteSignature)
	f.Fuzz(func(_ *testing.T, ak, data, att, sig, quote, qsig []byte) {
		_ = tpmproof.Check(&tpmproof.Evidence{EK: good.EK, AK: ak, CreationData: data, Attestation: att, Signature: sig})
		q := &tpmproof.Quote{Quote: quote, Signature: qsig, PCRs: []int{1}, Values: p.PCRValues}
		_ = tpmproof.VerifyQuote(ak, [32]byte{}, q)
		_ = tpmproof.VerifyQuote(good.AK, [32]byte{}, q)
	})
}
