package keystore_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/pki/keystore"
)

type store interface {
	Generate(ctx context.Context, s keystore.Spec) ([]byte, error)
	Open(ctx context.Context, text []byte) (crypto.Signer, error)
}

// works runs what every store has to do.
func works(t *testing.T, s store, specs ...keystore.Spec) {
	t.Helper()
	for _, spec := range specs {
		text, err := s.Generate(t.Context(), spec)
		require.NoError(t, err, spec.String())
		key, err := s.Open(t.Context(), text)
		require.NoError(t, err, spec.String())
		digest := sha256.Sum256([]byte("x"))
		sig, err := key.Sign(nil, digest[:], crypto.SHA256)
		if pub, ok := key.Public().(*rsa.PublicKey); ok {
			require.Equal(t, spec.RSABits, pub.N.BitLen())
		}
		if pub, ok := key.Public().(*ecdsa.PublicKey); ok && err == nil {
			require.True(t, ecdsa.VerifyASN1(pub, digest[:], sig))
		}
		require.NoError(t, err)
	}
	for _, bad := range []keystore.Spec{{}, {RSABits: 1024}, {RSABits: 2049}, {RSABits: 4352}, {Curve: elliptic.P224()}, {RSABits: 2048, Curve: elliptic.P256()}} {
		_, err := s.Generate(t.Context(), bad)
		require.ErrorIs(t, err, keystore.ErrUnsupported, bad)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Generate(ctx, keystore.Spec{Curve: elliptic.P256()})
	require.ErrorIs(t, err, context.Canceled)
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "-----BEGIN X-----\nMAA=\n-----END X-----\n", strings.Repeat(" ", 20<<10)} {
		_, err := s.Open(t.Context(), []byte(text))
		require.Error(t, err)
	}
}

func TestSoftware(t *testing.T) {
	t.Parallel()
	works(t, keystore.Software{}, keystore.Spec{RSABits: 2048}, keystore.Spec{RSABits: 2304}, keystore.Spec{Curve: elliptic.P256()},
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
		works(t, s, keystore.Spec{RSABits: 2048}, keystore.Spec{Curve: elliptic.P256()}, keystore.Spec{Curve: elliptic.P384()})
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
