package keystore_test

import (
	"crypto/elliptic"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/pki/keystore"
	"github.com/mooringlib/mooring/pki/pkitest"
)

func TestSoftware(t *testing.T) {
	t.Parallel()
	pkitest.KeyStore(t, keystore.Software{}, keystore.Spec{RSABits: 2048}, keystore.Spec{RSABits: 2304}, keystore.Spec{Curve: elliptic.P256()},
		keystore.Spec{Curve: elliptic.P384()}, keystore.Spec{Curve: elliptic.P521()})
	tss, err := os.ReadFile(filepath.Join("..", "..", "internal", "tpmkey", "testdata", "provider-ec-owner.pem"))
	require.NoError(t, err)
	_, err = keystore.Software{}.Open(t.Context(), tss)
	require.ErrorIs(t, err, keystore.ErrUnsupported)
}

func TestTPM(t *testing.T) {
	t.Parallel()
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		s, err := keystore.NewTPM(b.New(t), nil)
		require.NoError(t, err)
		pkitest.KeyStore(t, s, keystore.Spec{RSABits: 2048}, keystore.Spec{Curve: elliptic.P256()}, keystore.Spec{Curve: elliptic.P384()})
		_, err = s.Generate(t.Context(), keystore.Spec{RSABits: 2304})
		require.ErrorIs(t, err, keystore.ErrUnsupported)
		// A key outside the TPM, and one of another TPM.
		text, err := keystore.Software{}.Generate(t.Context(), keystore.Spec{Curve: elliptic.P256()})
		require.NoError(t, err)
		_, err = s.Open(t.Context(), text)
		require.Error(t, err)
		tss, err := os.ReadFile(filepath.Join("..", "..", "internal", "tpmkey", "testdata", "provider-ec-owner.pem"))
		require.NoError(t, err)
		_, err = s.Open(t.Context(), tss)
		require.ErrorContains(t, err, "this TPM does not load the key")
	})
	_, err := keystore.NewTPM(nil, nil)
	require.Error(t, err)
}

func FuzzOpen(f *testing.F) {
	for _, s := range []keystore.Spec{{RSABits: 2048}, {Curve: elliptic.P256()}} {
		text, err := keystore.Software{}.Generate(f.Context(), s)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if key, err := (keystore.Software{}).Open(t.Context(), text); err == nil && key.Public() == nil {
			t.Fatal("a key without its public half")
		}
	})
}
