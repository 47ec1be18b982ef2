package pkitest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/keystore"
)

// KeyStore tests a store with the kinds of key that it makes.
func KeyStore(t *testing.T, s pki.KeyStore, specs ...keystore.Spec) {
	t.Helper()
	for _, spec := range specs {
		t.Run(spec.String(), func(t *testing.T) { makesAndOpens(t, s, spec) })
	}
	t.Run("refuses", func(t *testing.T) { refuses(t, s) })
}

func makesAndOpens(t *testing.T, s pki.KeyStore, spec keystore.Spec) {
	first, err := s.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, second) {
		t.Fatal("the same key twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	key, err := s.Open(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the key outlives it
	again, err := s.Open(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(again.Public()) {
		t.Fatal("the same text gave another key")
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := signs(key, spec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if printed := fmt.Sprintf("%v %+v %s", key, key, key); len(printed) > 4096 {
		t.Error("the key prints more than its name")
	}
}

func signs(key crypto.Signer, spec keystore.Spec) error {
	digest := sha256.Sum256([]byte("what is signed"))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() != spec.RSABits {
			return fmt.Errorf("a key of %d bits instead of %s", pub.N.BitLen(), spec)
		}
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig); err != nil {
			return err
		}
		// TLS 1.3 signs with PSS and a salt as long as the hash.
		pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		if sig, err = key.Sign(rand.Reader, digest[:], pss); err != nil {
			return err
		}
		return rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, pss)
	case *ecdsa.PublicKey:
		if pub.Curve != spec.Curve || !ecdsa.VerifyASN1(pub, digest[:], sig) {
			return errors.New("the signature does not verify, or the curve is another")
		}
		return nil
	}
	return fmt.Errorf("public key %T", key.Public())
}

func refuses(t *testing.T, s pki.KeyStore) {
	for _, bad := range []keystore.Spec{{}, {RSABits: 1024}, {RSABits: 2049}, {RSABits: 4352}, {Curve: elliptic.P224()}, {RSABits: 2048, Curve: elliptic.P256()}} {
		if _, err := s.Generate(t.Context(), bad); !errors.Is(err, keystore.ErrUnsupported) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Generate(ctx, keystore.Spec{Curve: elliptic.P256()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "-----BEGIN X-----\nMAA=\n-----END X-----\n", strings.Repeat(" ", 1<<20)} {
		if _, err := s.Open(t.Context(), []byte(text)); err == nil {
			t.Errorf("opened %.40q", text)
		}
	}
}
