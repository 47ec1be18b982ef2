package pcrpolicy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/pcrpolicy"
)

func state(number uint64, fill byte) pcrpolicy.Alternative {
	return pcrpolicy.Alternative{Number: number, Bank: pcrpolicy.SHA256, PCRs: []pcrpolicy.PCR{
		{Index: 0, Value: bytes.Repeat([]byte{fill}, 32)}, {Index: 7, Value: bytes.Repeat([]byte{fill + 1}, 32)},
	}}
}

func document(t testing.TB) *pcrpolicy.Document {
	d, err := pcrpolicy.Make("acme-router", 0, state(16, 1))
	require.NoError(t, err)
	d.Alternatives = append(d.Alternatives, state(17, 3))
	return d
}

func keys(t testing.TB) map[string]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return map[string]crypto.Signer{"RSA-2048": rsaKey, "P-256": ecKey}
}

func TestSignedDocument(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			d := document(t)
			require.ErrorIs(t, d.Verify(key.Public()), pcrpolicy.ErrUnsigned)
			require.NoError(t, d.Sign(key))
			data, err := d.Marshal()
			require.NoError(t, err)
			back, err := pcrpolicy.Parse(data)
			require.NoError(t, err)
			require.Equal(t, d, back)
			require.NoError(t, back.Verify(key.Public()))
			require.ErrorIs(t, back.Verify(other.Public()), pcrpolicy.ErrSignature)
			for what, change := range map[string]func(d *pcrpolicy.Document){
				"reference": func(d *pcrpolicy.Document) { d.Reference = "other" },
				"counter":   func(d *pcrpolicy.Document) { d.CounterIndex++ },
				"number":    func(d *pcrpolicy.Document) { d.Alternatives[0].Number++ },
				"value":     func(d *pcrpolicy.Document) { d.Alternatives[1].PCRs[0].Value[3] ^= 1 },
				"PCR":       func(d *pcrpolicy.Document) { d.Alternatives[0].PCRs[0].Index = 1 },
				"signature": func(d *pcrpolicy.Document) { d.Alternatives[0].Signature[9] ^= 1 },
				"exchange": func(d *pcrpolicy.Document) {
					d.Alternatives[0].Signature, d.Alternatives[1].Signature = d.Alternatives[1].Signature, d.Alternatives[0].Signature
				},
			} {
				changed, err := pcrpolicy.Parse(data)
				require.NoError(t, err)
				change(changed)
				require.ErrorIs(t, changed.Verify(key.Public()), pcrpolicy.ErrSignature, what)
			}
		})
	}
}

func TestKeysThatATPMCannotCheckAreRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	rsa3072, err := rsa.GenerateKey(rand.Reader, 3072)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for _, key := range []crypto.Signer{p384, rsa3072, ed} {
		require.ErrorIs(t, document(t).Sign(key), pcrpolicy.ErrKey)
		require.ErrorIs(t, document(t).Verify(key.Public()), pcrpolicy.ErrKey)
	}
}

func TestMalformedDocuments(t *testing.T) {
	good, err := document(t).Marshal()
	require.NoError(t, err)
	zeros := strings.Repeat("00", 32)
	for name, change := range map[string]func(string) string{
		"empty":           func(string) string { return "" },
		"more after":      func(s string) string { return s + "{}" },
		"unknown field":   func(s string) string { return strings.Replace(s, `"reference"`, `"x": 1, "reference"`, 1) },
		"other format":    func(s string) string { return strings.Replace(s, "policy/1", "policy/2", 1) },
		"no reference":    func(s string) string { return strings.Replace(s, "acme-router", "", 1) },
		"not an NV index": func(s string) string { return strings.Replace(s, fmt.Sprint(pcrpolicy.DefaultCounterIndex), "7", 1) },
		"number 0":        func(s string) string { return strings.Replace(s, `"number": 16`, `"number": 0`, 1) },
		"bank":            func(s string) string { return strings.Replace(s, "sha256", "sha1", 1) },
		"PCR 24":          func(s string) string { return strings.Replace(s, `"index": 7`, `"index": 24`, 1) },
		"PCR order":       func(s string) string { return strings.Replace(s, `"index": 0`, `"index": 9`, 1) },
		"value size":      func(s string) string { return strings.Replace(s, strings.Repeat("01", 32), zeros[2:], 1) },
		"not hex":         func(s string) string { return strings.Replace(s, strings.Repeat("01", 32), "zz"+zeros[2:], 1) },
		"too long":        func(s string) string { return s + strings.Repeat(" ", 70_000) },
		"no alternative": func(string) string {
			return `{"format":"mooring-pcr-policy/1","reference":"r","counter_index":25231362,"alternatives":[]}`
		},
	} {
		changed := change(string(good))
		require.NotEqual(t, string(good), changed, name)
		_, err := pcrpolicy.Parse([]byte(changed))
		require.ErrorIs(t, err, pcrpolicy.ErrFormat, name)
	}
	for n := range len(good) - 1 {
		_, err := pcrpolicy.Parse(good[:n])
		require.ErrorIs(t, err, pcrpolicy.ErrFormat, "cut to %d bytes", n)
	}
}

func FuzzParse(f *testing.F) {
	good, err := document(f).Marshal()
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"format":"mooring-pcr-policy/1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := pcrpolicy.Parse(data)
		if err != nil {
			require.ErrorIs(t, err, pcrpolicy.ErrFormat)
			return
		}
		again, err := d.Marshal()
		require.NoError(t, err)
		back, err := pcrpolicy.Parse(again)
		require.NoError(t, err)
		for _, a := range back.Alternatives {
			_, err := back.SignedDigest(a)
			require.NoError(t, err)
		}
	})
}

// A release engineer notes the boot state of a release, signs it with the
// vendor's key, and ships the document with the release.
func Example() {
	vendor, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	release := pcrpolicy.Alternative{Number: pcrpolicy.FirstNumber, Bank: pcrpolicy.SHA256, PCRs: []pcrpolicy.PCR{
		{Index: 7, Value: make([]byte, 32)}, // tpmwrap.State reads them from a TPM
	}}
	doc, err := pcrpolicy.Make("acme-router", 0, release)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := doc.Sign(vendor); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(doc.Verify(vendor.Public()))
	// Output: <nil>
}
