package cms_test

import (
	"bytes"
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
