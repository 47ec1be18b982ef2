//lint:file-ignore SA1019 PKCS #1 v1.5 is tested because devices still get messages in it

package tpmkey_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmkey"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// unavailable reports whether the error says that the key could not be used.
func unavailable(err error) bool {
	u, ok := err.(interface{ KeyUnavailable() bool })
	return ok && u.KeyUnavailable()
}

func TestDecryptRSA(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		sim := b.New(t)
		d := device(t, sim)
		for name, tmpl := range map[string]tpmkey.Template{
			"decrypt": tpmkey.RSA(2048, tpmkey.Decrypt), "dual": tpmkey.RSA(2048, tpmkey.Decrypt).DualUse(),
		} {
			t.Run(name, func(t *testing.T) {
				key := create(t, d, tmpl)
				dec, err := key.Decrypter()
				require.NoError(t, err)
				pub := dec.Public().(*rsa.PublicKey)
				for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA512} {
					for _, mgf := range []crypto.Hash{0, crypto.SHA1, crypto.SHA384} {
						opts := &rsa.OAEPOptions{Hash: hash, MGFHash: mgf, Label: []byte("label\x01")}
						ct, err := rsa.EncryptOAEPWithOptions(rand.Reader, pub, []byte("\x00\x01secret"), opts)
						require.NoError(t, err)
						pt, err := dec.Decrypt(rand.Reader, ct, opts)
						require.NoError(t, err)
						require.Equal(t, []byte("\x00\x01secret"), pt)
						_, err = dec.Decrypt(rand.Reader, ct, &rsa.OAEPOptions{Hash: hash, MGFHash: mgf})
						require.ErrorIs(t, err, rsa.ErrDecryption, "wrong label")
						require.False(t, unavailable(err))
					}
				}
				_, err = key.KeyExchanger()
				require.ErrorIs(t, err, tpmkey.ErrUnsupported)
				require.Zero(t, transients(t, sim))
			})
		}
	})
}

// rawEncrypt is RSA without padding.
func rawEncrypt(pub *rsa.PublicKey, em []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(int64(pub.E)), pub.N)
	return c.FillBytes(make([]byte, pub.Size()))
}

// TestDecryptPKCS1v15 builds blocks by hand, right and wrong in each way, and
// compares with the standard library's software key.
func TestDecryptPKCS1v15(t *testing.T) {
	const keyLen = 32
	session := bytes.Repeat([]byte{0xc3}, keyLen)
	block := func(size int, change func(em []byte)) []byte {
		em := bytes.Repeat([]byte{0x77}, size)
		em[0], em[1], em[size-keyLen-1] = 0, 2, 0
		copy(em[size-keyLen:], session)
		change(em)
		return em
	}
	cases := map[string]struct {
		change func(em []byte)
		good   bool
	}{
		"good":            {func([]byte) {}, true},
		"first byte":      {func(em []byte) { em[0] = 1 }, false},
		"block type":      {func(em []byte) { em[1] = 1 }, false},
		"short padding":   {func(em []byte) { em[5] = 0 }, false},
		"zero in padding": {func(em []byte) { em[100] = 0 }, false},
		"longer key":      {func(em []byte) { em[len(em)-keyLen-1] = 9 }, false},
	}
	check := func(t *testing.T, dec crypto.Decrypter) {
		pub := dec.Public().(*rsa.PublicKey)
		random := bytes.Repeat([]byte{0x11}, keyLen)
		for name, c := range cases {
			got, err := dec.Decrypt(io.MultiReader(bytes.NewReader(random), rand.Reader), rawEncrypt(pub, block(pub.Size(), c.change)),
				&rsa.PKCS1v15DecryptOptions{SessionKeyLen: keyLen})
			require.NoError(t, err, name)
			if c.good {
				require.Equal(t, session, got, name)
			} else {
				require.Equal(t, random, got, name)
			}
		}
	}
	soft, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	check(t, soft)
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		dec, err := create(t, device(t, b.New(t)), tpmkey.RSA(2048, tpmkey.Decrypt)).Decrypter()
		require.NoError(t, err)
		check(t, dec)
		pub := dec.Public().(*rsa.PublicKey)
		for _, bad := range [][]byte{nil, make([]byte, 255), bytes.Repeat([]byte{0xff}, 256), make([]byte, 257)} {
			_, err := dec.Decrypt(rand.Reader, bad, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: keyLen})
			require.ErrorIs(t, err, rsa.ErrDecryption)
		}
		for _, opts := range []crypto.DecrypterOpts{nil, &rsa.PKCS1v15DecryptOptions{},
			&rsa.PKCS1v15DecryptOptions{SessionKeyLen: pub.Size()}, &rsa.OAEPOptions{}} {
			_, err := dec.Decrypt(rand.Reader, make([]byte, 256), opts)
			require.ErrorIs(t, err, tpmkey.ErrUnsupported)
		}
	})
}

// mask is MGF1 with SHA-256, added to out.
func mask(out, seed []byte) {
	for i, counter := 0, byte(0); i < len(out); counter++ {
		sum := sha256.Sum256(append(bytes.Clone(seed), 0, 0, 0, counter))
		i += subtle.XORBytes(out[i:], out[i:], sum[:])
	}
}

// TestDecryptOAEPBlocks builds OAEP blocks by hand, right and wrong in each way, and compares with the standard library's
// software key.
func TestDecryptOAEPBlocks(t *testing.T) {
	empty := sha256.Sum256(nil)
	cases := map[string]struct {
		first  byte
		change func(db []byte)
		want   string
	}{
		"good":                  {0, func([]byte) {}, "message"},
		"first byte":            {1, func([]byte) {}, ""},
		"label hash":            {0, func(db []byte) { db[0] ^= 1 }, ""},
		"padding not zero":      {0, func(db []byte) { db[40] = 2 }, ""},
		"no separator":          {0, func(db []byte) { clear(db[32:]) }, ""},
		"separator at the end":  {0, func(db []byte) { clear(db[32:]); db[len(db)-1] = 1 }, "\x00none"},
		"separator at once":     {0, func(db []byte) { clear(db[32:]); db[32] = 1 }, "\x00zeros"},
		"separator in the text": {0, func(db []byte) { db[len(db)-3] = 1 }, "mess\x01ge"},
	}
	check := func(t *testing.T, dec crypto.Decrypter) {
		pub := dec.Public().(*rsa.PublicKey)
		for name, c := range cases {
			em := make([]byte, pub.Size())
			seed, db := em[1:33], em[33:]
			copy(seed, bytes.Repeat([]byte{0x5a}, 32))
			copy(db, empty[:])
			copy(db[len(db)-8:], "\x01message")
			c.change(db)
			mask(db, seed)
			mask(seed, db)
			em[0] = c.first
			got, err := dec.Decrypt(rand.Reader, rawEncrypt(pub, em), &rsa.OAEPOptions{Hash: crypto.SHA256})
			switch c.want {
			case "":
				require.ErrorIs(t, err, rsa.ErrDecryption, name)
			case "\x00none":
				require.NoError(t, err, name)
				require.Empty(t, got, name)
			case "\x00zeros":
				require.NoError(t, err, name)
				require.Equal(t, make([]byte, len(db)-33), got, name)
			default:
				require.NoError(t, err, name)
				require.Equal(t, c.want, string(got), name)
			}
		}
	}
	soft, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	check(t, soft)
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		dec, err := create(t, device(t, b.New(t)), tpmkey.RSA(2048, tpmkey.Decrypt)).Decrypter()
		require.NoError(t, err)
		check(t, dec)
	})
}

func TestKeyExchange(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		sim := b.New(t)
		d := device(t, sim)
		for curve, std := range map[ecdh.Curve]elliptic.Curve{ecdh.P256(): elliptic.P256(), ecdh.P384(): elliptic.P384()} {
			for _, tmpl := range []tpmkey.Template{tpmkey.ECC(std, tpmkey.Decrypt), tpmkey.ECC(std, tpmkey.Decrypt).DualUse()} {
				t.Run(tmpl.String(), func(t *testing.T) {
					key := create(t, d, tmpl)
					x, err := key.KeyExchanger()
					require.NoError(t, err)
					require.Equal(t, curve, x.Curve())
					for range 4 {
						peer, err := curve.GenerateKey(rand.Reader)
						require.NoError(t, err)
						want, err := peer.ECDH(x.PublicKey())
						require.NoError(t, err)
						got, err := x.ECDH(peer.PublicKey())
						require.NoError(t, err)
						require.Equal(t, want, got)
					}
					other, err := ecdh.P521().GenerateKey(rand.Reader)
					require.NoError(t, err)
					_, err = x.ECDH(other.PublicKey())
					require.ErrorIs(t, err, tpmkey.ErrUnsupported)
					_, err = key.Decrypter()
					require.ErrorIs(t, err, tpmkey.ErrUnsupported)

					require.NoError(t, key.Close())
					peer, err := curve.GenerateKey(rand.Reader)
					require.NoError(t, err)
					_, err = x.ECDH(peer.PublicKey())
					require.ErrorIs(t, err, tpmkey.ErrClosed)
					require.True(t, unavailable(err))
				})
			}
		}
		require.Zero(t, transients(t, sim))
	})
}

// TestUses shows that a key does what it was made for and nothing else, in the
// TPM itself for the dual-use key.
func TestUses(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		d := device(t, b.New(t))
		sign := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Sign))
		_, err := sign.KeyExchanger()
		require.ErrorIs(t, err, tpmkey.ErrUnsupported)
		digest := sha256.Sum256([]byte("certificate"))
		decrypt := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt))
		_, err = decrypt.Sign(nil, digest[:], crypto.SHA256)
		require.ErrorIs(t, err, tpmkey.ErrUnsupported)
		dual := create(t, d, tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt).DualUse())
		sig, err := dual.Sign(nil, digest[:], crypto.SHA256)
		require.NoError(t, err)
		require.True(t, ecdsa.VerifyASN1(dual.Public().(*ecdsa.PublicKey), digest[:], sig))
		require.Contains(t, fmt.Sprint(tpmkey.ECC(elliptic.P256(), tpmkey.Decrypt).DualUse()), "dual use")
	})
}
