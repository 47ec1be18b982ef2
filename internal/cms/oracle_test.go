//lint:file-ignore SA1019 PKCS #1 v1.5 is tested because devices still get messages in it

package cms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
)

// hardware is a key that answers bad padding with an error, as a TPM's own padding does, and counts.
type hardware struct {
	*rsa.PrivateKey
	uses int
}

func (h *hardware) Decrypt(random io.Reader, ct []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	h.uses++
	if _, ok := opts.(*rsa.PKCS1v15DecryptOptions); ok {
		opts = &rsa.PKCS1v15DecryptOptions{}
	}
	return h.PrivateKey.Decrypt(random, ct, opts)
}

// counting is a software key that counts.
type counting struct {
	*rsa.PrivateKey
	uses int
}

func (c *counting) Decrypt(random io.Reader, ct []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	c.uses++
	return c.PrivateKey.Decrypt(random, ct, opts)
}

func rawEncrypt(pub *rsa.PublicKey, em []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(int64(pub.E)), pub.N)
	return c.FillBytes(make([]byte, pub.Size()))
}

// replaceKey puts another encrypted key of the same length into a message.
func replaceKey(t testing.TB, der, wrapped []byte) []byte {
	t.Helper()
	old, err := cms.Wrapped(der)
	require.NoError(t, err)
	require.Len(t, old[0], len(wrapped))
	out := bytes.Clone(der)
	i := bytes.Index(out, old[0])
	copy(out[i:], wrapped)
	return out
}

// TestNoPaddingOracle sends every kind of bad message that an attacker uses to learn about padding, and sees one
// answer, after the same work, from a software key and from one that reports bad padding as an error.
func TestNoPaddingOracle(t *testing.T) {
	id := identities(t)[0]
	key := id.key.(*rsa.PrivateKey)
	size := key.Size()
	content := bytes.Repeat([]byte("secret configuration\n"), 1000)
	for _, gcm := range []bool{false, true} {
		cfg := cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC}
		if gcm {
			cfg.Cipher = cms.AES256GCM
		}
		der, err := cms.Encrypt(content, cfg)
		require.NoError(t, err)
		ciphertext, mac, err := cms.Sealed(der)
		require.NoError(t, err)
		flip := func(at []byte, i int) []byte {
			out := bytes.Clone(der)
			out[bytes.Index(out, at)+i] ^= 0x55
			return out
		}
		block := func(change func(em []byte)) []byte {
			em := bytes.Repeat([]byte{0x77}, size)
			em[0], em[1], em[size-33] = 0, 2, 0
			change(em)
			return replaceKey(t, der, rawEncrypt(&key.PublicKey, em))
		}
		probes := map[string][]byte{
			"conforming, wrong key":  block(func([]byte) {}),
			"first byte not zero":    block(func(em []byte) { em[0] = 1 }),
			"block type":             block(func(em []byte) { em[1] = 1 }),
			"no zero":                block(func(em []byte) { em[size-33] = 1 }),
			"zero too early":         block(func(em []byte) { em[4] = 0 }),
			"key too short":          block(func(em []byte) { em[size-20] = 0; em[size-33] = 1 }),
			"key too long":           block(func(em []byte) { em[size-40] = 0 }),
			"key as for AES-128":     block(func(em []byte) { em[size-33] = 3; em[size-17] = 0 }),
			"random block":           replaceKey(t, der, append([]byte{0}, bytes.Repeat([]byte{9}, size-1)...)),
			"block above modulus":    replaceKey(t, der, bytes.Repeat([]byte{0xff}, size)),
			"zero block":             replaceKey(t, der, make([]byte, size)),
			"last block of content":  flip(ciphertext[len(ciphertext)-16:], 15),
			"first block of content": flip(ciphertext, 0),
		}
		if gcm {
			probes["tag"] = flip(mac, 0)
		} else {
			delete(probes, "first block of content") // CBC cannot see this: that is why it is not authenticated
			// A padding length that is changed behind the block before it.
			probes["padding"] = flip(ciphertext[len(ciphertext)-32:], 15)
		}
		hw, sw := &hardware{PrivateKey: key}, &counting{PrivateKey: key}
		for name, k := range map[string]any{"hardware": hw, "software": sw} {
			d := newDecrypter(t, k, id)
			m, err := d.DecryptBytes(der)
			require.NoError(t, err)
			require.Equal(t, content, m.Content)
			for probe, data := range probes {
				before := hw.uses + sw.uses
				_, first := d.DecryptBytes(data)
				require.Equal(t, 1, hw.uses+sw.uses-before, "%s %s: uses of the key", name, probe)
				if first == nil && !gcm {
					// A wrong key gives valid CBC padding once in 256 times. What counts is that asking again tells nothing.
					for range 20 {
						_, again := d.DecryptBytes(data)
						require.NoError(t, again, "%s %s: the answer changed", name, probe)
					}
					continue
				}
				for range 3 {
					_, err := d.DecryptBytes(data)
					require.Same(t, cms.ErrDecrypt, err, "%s %s", name, probe)
				}
				require.Same(t, cms.ErrDecrypt, first, "%s %s", name, probe)
			}
		}
	}
}

// TestOracleTime compares the time of a bad encrypted key with that of bad content: when the content were skipped after
// a bad key, the former would take a small part of the latter.
func TestOracleTime(t *testing.T) {
	id := identities(t)[0]
	key := id.key.(*rsa.PrivateKey)
	der, err := cms.Encrypt(make([]byte, 16<<20), cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC})
	require.NoError(t, err)
	ciphertext, _, err := cms.Sealed(der)
	require.NoError(t, err)
	badContent := bytes.Clone(der)
	badContent[bytes.Index(badContent, ciphertext[len(ciphertext)-32:])+15] ^= 0x55
	badKey := replaceKey(t, der, make([]byte, key.Size()))
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key, MaxSize: 1 << 30})
	require.NoError(t, err)
	measure := func(data []byte, best *time.Duration) {
		start := time.Now()
		_, err := d.DecryptBytes(data)
		*best = min(*best, time.Since(start))
		if err != nil {
			require.Same(t, cms.ErrDecrypt, err)
		}
	}
	k, c := time.Hour, time.Hour
	for range 5 {
		measure(badKey, &k)
		measure(badContent, &c)
	}
	t.Logf("bad key %v, bad content %v", k, c)
	require.Greater(t, k, c/4)
}

// broken is a key whose hardware does not answer.
type broken struct{ crypto.PublicKey }

type brokenError struct{ error }

func (brokenError) KeyUnavailable() bool { return true }

func (b broken) Public() crypto.PublicKey { return b.PublicKey }
func (b broken) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	return nil, brokenError{errors.New("bus is gone")}
}

type brokenEC struct{ *ecdh.PrivateKey }

func (brokenEC) ECDH(*ecdh.PublicKey) ([]byte, error) {
	return nil, brokenError{errors.New("bus is gone")}
}

func TestKeyUnavailable(t *testing.T) {
	for _, id := range identities(t)[:2] {
		der, err := cms.Encrypt([]byte("x"), cms.EncryptConfig{Recipients: certs(id)})
		require.NoError(t, err)
		var key any = broken{id.key.Public()}
		if id.name != "rsa2048" {
			ec, err := id.key.(interface {
				ECDH() (*ecdh.PrivateKey, error)
			}).ECDH()
			require.NoError(t, err)
			key = brokenEC{ec}
		}
		_, err = newDecrypter(t, key).DecryptBytes(der)
		require.ErrorIs(t, err, cms.ErrKeyUnavailable)
		require.ErrorContains(t, err, "bus is gone")
	}
}

// TestTryAll decrypts with a key whose certificate is unknown and that stands at any place among others.
func TestTryAll(t *testing.T) {
	me := identities(t)[0]
	for _, cipher := range []cms.Cipher{cms.AES256CBC, cms.AES256GCM} {
		for place := range 4 {
			list := make([]identity, 0, 4)
			for i := range 4 {
				if i == place {
					list = append(list, me)
					continue
				}
				key, err := rsa.GenerateKey(rand.Reader, 2048)
				require.NoError(t, err)
				cert, err := selfSigned(key, "other")
				require.NoError(t, err)
				list = append(list, identity{"other", key, cert})
			}
			der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(list...), Cipher: cipher})
			require.NoError(t, err)
			k := &counting{PrivateKey: me.key.(*rsa.PrivateKey)}
			m, err := newDecrypter(t, k).DecryptBytes(der)
			require.NoError(t, err)
			require.Equal(t, unixConfig, m.Content)
			require.Equal(t, 4, k.uses, "every recipient is tried, whichever fits")
			k.uses = 0
			_, err = newDecrypter(t, k, me).DecryptBytes(der)
			require.NoError(t, err)
			require.Equal(t, 1, k.uses, "a known certificate saves the tries")
			// None of them.
			list = slices.Delete(list, place, place+1)
			der, err = cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(list...)})
			require.NoError(t, err)
			_, err = newDecrypter(t, k, me).DecryptBytes(der)
			require.Same(t, cms.ErrDecrypt, err)
		}
	}
	list := slices.Repeat([]identity{me}, cms.MaxTries+1)
	der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(list...)})
	require.NoError(t, err)
	_, err = newDecrypter(t, me.key).DecryptBytes(der)
	require.ErrorIs(t, err, cms.ErrUnsupported)
}
