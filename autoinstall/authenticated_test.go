package autoinstall_test

import (
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
)

// sealCBC encrypts as the appendix of RFC 8886 does, without integrity.
func (i identity) sealCBC(t testing.TB, content []byte) []byte {
	t.Helper()
	der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: []*x509.Certificate{i.cert}, Cipher: cms.AES256CBC})
	require.NoError(t, err)
	return der
}

func TestRequireAuthenticated(t *testing.T) {
	id, owner := ecIdentity(t, "device"), ecIdentity(t, "owner")
	signed := owner.sign(t, config1, cms.OwnerClaims{})
	for name, tt := range map[string]struct {
		file []byte
		want error
	}{
		"AES-GCM":             {id.seal(t, []byte(config1)), nil},
		"AES-CBC":             {id.sealCBC(t, []byte(config1)), autoinstall.ErrPlain},
		"AES-CBC, signed":     {id.sealCBC(t, signed), autoinstall.ErrPlain},
		"AES-CBC in PEM":      {cms.EncodePEM(id.sealCBC(t, []byte(config1))), autoinstall.ErrPlain},
		"AES-CBC to others":   {owner.sealCBC(t, []byte(config1)), autoinstall.ErrPlain},
		"plain":               {[]byte(config1), autoinstall.ErrPlain},
		"signed, not secret":  {signed, autoinstall.ErrPlain},
		"AES-CBC inside that": {id.seal(t, id.sealCBC(t, []byte(config1))), autoinstall.ErrDecrypt},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *autoinstall.Config) {
				c.RequireAuthenticated = true
				c.Keys = []autoinstall.Key{id.asKey("vendor")}
			})
			err := b.device(t).Load(t.Context(), tt.file, autoinstall.Load{})
			require.ErrorIs(t, err, tt.want)
			if tt.want != nil {
				require.ErrorIs(t, err, autoinstall.ErrRefused)
				require.NoFileExists(t, b.path)
			}
		})
	}
	b := newBench(t, func(c *autoinstall.Config) { c.Keys = []autoinstall.Key{id.asKey("vendor")} })
	require.NoError(t, b.device(t).Load(t.Context(), id.sealCBC(t, []byte(config1)), autoinstall.Load{}),
		"without it AES-CBC is taken, as RFC 8886 says")
}
