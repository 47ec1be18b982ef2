package cms_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
)

// trimming is a key whose hardware leaves the leading zeros of a coordinate away.
type trimming struct {
	*ecdh.PrivateKey
	trimmed int
}

func (k *trimming) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := k.PrivateKey.ECDH(peer)
	if short := bytes.TrimLeft(z, "\x00"); err == nil && len(short) < len(z) {
		k.trimmed++
		return short, nil
	}
	return z, err
}

// TestTrimmedCoordinate decrypts until a shared coordinate begins with a zero, which one in 256 does.
func TestTrimmedCoordinate(t *testing.T) {
	id := identities(t)[1]
	key, err := id.key.(*ecdsa.PrivateKey).ECDH()
	require.NoError(t, err)
	k := &trimming{PrivateKey: key}
	d := newDecrypter(t, k, id)
	for range 5000 {
		der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
		require.NoError(t, err)
		m, err := d.DecryptBytes(der)
		require.NoError(t, err)
		require.Equal(t, unixConfig, m.Content)
		if k.trimmed > 0 {
			return
		}
	}
	t.Fatal("no coordinate began with a zero")
}
