//lint:file-ignore SA1019 PKCS #1 v1.5 is tested because devices still get messages in it

package cms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
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

// TestNoPaddingOracleAmongRecipients puts a recipient of the attacker's own, which is in order, beside a block that he asks
// about. The message opens whatever the block is, before or after it, named or not. When the last block in order gave the
// key, it would not whenever the block is in order.
func TestNoPaddingOracleAmongRecipients(t *testing.T) {
	id := identities(t)[0]
	key := id.key.(*rsa.PrivateKey)
	size := key.Size()
	content := bytes.Repeat([]byte("own configuration\n"), 800) // a multiple of 16: no wrong key finds such a padding
	require.Zero(t, len(content)%16)
	cbc, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC})
	require.NoError(t, err)
	gcm, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	// The recipient that CBC messages have, with any block.
	transport := func(wrapped []byte) []byte {
		return parts(t, replaceKey(t, cbc, wrapped)).recipients
	}
	conforming := func() []byte {
		em := bytes.Repeat([]byte{0x77}, size)
		em[0], em[1], em[size-33] = 0, 2, 0
		return em
	}
	bad := conforming()
	bad[1] = 1
	probes := map[string][]byte{"in order": rawEncrypt(&key.PublicKey, conforming()), "not in order": rawEncrypt(&key.PublicKey, bad)}
	for name, der := range map[string][]byte{"CBC": cbc, "GCM": gcm} {
		wrapped, err := cms.Wrapped(der)
		require.NoError(t, err)
		good := wrapped[0]
		if name == "GCM" {
			cek, err := rsa.DecryptOAEP(sha256.New(), nil, key, good, nil)
			require.NoError(t, err)
			good, err = rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, cek)
			require.NoError(t, err)
		}
		hw, sw := &hardware{PrivateKey: key}, &counting{PrivateKey: key}
		for _, d := range []*cms.Decrypter{newDecrypter(t, hw, id), newDecrypter(t, sw, id), newDecrypter(t, hw), newDecrypter(t, sw)} {
			for probe, block := range probes {
				for _, order := range [][][]byte{{good, block}, {block, good}, {block, good, block}} {
					m := parts(t, der)
					m.recipients = nil
					for _, w := range order {
						m.recipients = append(m.recipients, transport(w)...)
					}
					data := m.der()
					before := bytes.Clone(data)
					hw.uses, sw.uses = 0, 0
					got, err := d.DecryptBytes(data)
					require.NoError(t, err, "%s, probe %s", name, probe)
					require.Equal(t, content, got.Content, "%s, probe %s", name, probe)
					require.Equal(t, "RSAES-PKCS1-v1_5", got.KeyManagement)
					require.Equal(t, len(order), hw.uses+sw.uses)
					require.Equal(t, before, data)
					got, err = d.Decrypt(bytes.NewReader(cms.EncodePEM(data)))
					require.NoError(t, err)
					require.Equal(t, content, got.Content)
				}
				m := parts(t, der)
				m.recipients = slices.Concat(transport(block), transport(block))
				if name == "GCM" {
					_, err := d.DecryptBytes(m.der())
					require.Same(t, cms.ErrDecrypt, err)
				}
			}
		}
	}
}

// TestRejectedKeyLeadingZeros sends a block that is not in order with its leading zero and without. A block in order gives
// one key for both, so one that is not has to do so, too.
func TestRejectedKeyLeadingZeros(t *testing.T) {
	id := identities(t)[0]
	size := id.key.(*rsa.PrivateKey).Size()
	der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC})
	require.NoError(t, err)
	block := append([]byte{0}, bytes.Repeat([]byte{9}, size-1)...)
	whole := replaceKey(t, der, block)
	m := parts(t, whole)
	_, body, _ := split(t, m.recipients)
	body = bytes.TrimSuffix(body, tlv(4, block))
	m.recipients = tlv(0x30, body, tlv(4, block[1:]))
	d := newDecrypter(t, id.key, id)
	want, err := cms.ContentKeys(d, whole)
	require.NoError(t, err)
	got, err := cms.ContentKeys(d, m.der())
	require.NoError(t, err)
	require.Equal(t, want, got)
	other, err := cms.ContentKeys(newDecrypter(t, id.key, id), whole)
	require.NoError(t, err)
	require.NotEqual(t, want, other, "the key is a secret one")
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
	content := bytes.Repeat([]byte("hostname SN1 up\n"), 3) // a multiple of 16: no wrong key finds such a padding
	var others []identity
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		cert, err := selfSigned(key, "other")
		require.NoError(t, err)
		others = append(others, identity{"other", key, cert})
	}
	for _, cipher := range []cms.Cipher{cms.AES256CBC, cms.AES256GCM} {
		for place := range 4 {
			list := slices.Insert(slices.Clone(others), place, me)
			der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(list...), Cipher: cipher})
			require.NoError(t, err)
			k := &counting{PrivateKey: me.key.(*rsa.PrivateKey)}
			m, err := newDecrypter(t, k).DecryptBytes(der)
			require.NoError(t, err)
			require.Equal(t, content, m.Content)
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
