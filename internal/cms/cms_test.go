package cms_test

import (
	"bytes"
	"encoding/hex"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
)

func TestRoundTrip(t *testing.T) {
	for i, id := range identities(t) {
		sizes := []int{0, 1, 15, 16, 17, 127, 128, 65536}
		if i > 1 {
			sizes = sizes[6:] // the slow curves differ in nothing that depends on sizes
		}
		d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: id.key, Certificates: certs(id)})
		require.NoError(t, err)
		for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
			for _, ski := range []bool{false, true} {
				for _, size := range sizes {
					content := bytes.Repeat([]byte("x"), size)
					der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(id), Cipher: cipher, KeyIdentifiers: ski})
					require.NoError(t, err)
					for _, data := range [][]byte{der, cms.EncodePEM(der)} {
						before := bytes.Clone(data)
						m, err := d.DecryptBytes(data)
						require.NoError(t, err, "%s %d", id.name, size)
						require.True(t, bytes.Equal(content, m.Content))
						require.Equal(t, cipher == cms.AES256GCM, m.Authenticated)
						require.Equal(t, before, data, "the input was changed")
						m, err = d.Decrypt(bytes.NewReader(data))
						require.NoError(t, err)
						require.True(t, bytes.Equal(content, m.Content))
					}
				}
			}
		}
	}
}

// TestBindCipher binds the content key to the cipher. A message that is relabelled is not decrypted with the same key.
func TestBindCipher(t *testing.T) {
	// The vectors of RFC 9709, appendix B.
	for _, c := range []struct{ cek, alg, want string }{
		{"c702e7d0a9e064b09ba55245fb733cf3", "301b0609608648016503040106300e040c5c79058ba2f43447639d29e2", "2124ffb29fac4e0fbbc7d5d87492bff3"},
	} {
		got, err := cms.BindKey(unhex(c.cek), unhex(c.alg))
		require.NoError(t, err)
		require.Equal(t, c.want, hex.EncodeToString(got))
	}
	id := identities(t)[1]
	d := newDecrypter(t, id.key, id)
	for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
		der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id), Cipher: cipher, BindCipher: true})
		require.NoError(t, err)
		require.Equal(t, cms.KindEncrypted, cms.Detect(der))
		m, err := d.DecryptBytes(der)
		require.NoError(t, err)
		require.Equal(t, unixConfig, m.Content)
		if cipher != cms.AES256GCM {
			continue
		}
		// Without the wrapping, the same key is not the right one.
		e := parts(t, der)
		_, inner, _ := split(t, e.alg)
		_, _, inner = split(t, inner)
		e.alg = inner
		_, err = d.DecryptBytes(e.der())
		require.Same(t, cms.ErrDecrypt, err)
		// Wrapped twice is no algorithm.
		e.alg = tlv(0x30, tlv(6, unhex("2a864886f70d010910031f")), tlv(0x30, tlv(6, unhex("2a864886f70d010910031f")), inner))
		_, err = d.DecryptBytes(e.der())
		require.ErrorIs(t, err, cms.ErrUnsupported)
		e.alg = tlv(0x30, tlv(6, unhex("2a864886f70d010910031f")))
		_, err = d.DecryptBytes(e.der())
		require.ErrorIs(t, err, cms.ErrMalformed)
	}
}

// TestMemory holds a message once, whatever its form: the content is decrypted where it was read.
func TestMemory(t *testing.T) {
	const size = 8 << 20
	id := identities(t)[1]
	for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
		der, err := cms.Encrypt(make([]byte, size), cms.EncryptConfig{Recipients: certs(id), Cipher: cipher})
		require.NoError(t, err)
		d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: id.key, MaxSize: 2 * size})
		require.NoError(t, err)
		for name, data := range map[string][]byte{"DER": der, "PEM": cms.EncodePEM(der)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			m, err := d.Decrypt(bytes.NewReader(data))
			require.NoError(t, err)
			runtime.ReadMemStats(&after)
			require.Len(t, m.Content, size)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size+size/16), name)
		}
	}
}

// TestConcurrent uses one Decrypter from many goroutines, which the race detector watches.
func TestConcurrent(t *testing.T) {
	for _, id := range identities(t)[:2] {
		d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: id.key, MaxSize: math.MaxInt64})
		require.NoError(t, err)
		der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for _, data := range [][]byte{der, cms.EncodePEM(der)} {
					if m, err := d.DecryptBytes(data); err != nil || !bytes.Equal(m.Content, unixConfig) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
}
