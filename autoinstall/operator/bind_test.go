package operator_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/operator"
	"github.com/mooringlib/mooring/internal/cms"
)

// TestBindCipher reads a message whose content key is bound to its cipher, and sees that one without is what it is unless
// asked for.
func TestBindCipher(t *testing.T) {
	// id-alg-cek-hkdf-sha256 of RFC 9709, section 3.
	bound := []byte{0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x03, 0x1f}
	key, ownerKey := newKey(t), newKey(t)
	configuration := []byte("hostname SN1\n")
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: key, RequireAuthenticated: true})
	require.NoError(t, err)
	owner := &operator.Owner{Key: ownerKey, Certificate: certificate(t, ownerKey), Serial: serial}
	for _, o := range []*operator.Owner{nil, owner} {
		for _, bind := range []bool{false, true} {
			data, err := operator.Encrypt(configuration, operator.EncryptConfig{Certificate: certificate(t, key), BindCipher: bind, Owner: o})
			require.NoError(t, err)
			block, _ := pem.Decode(data)
			require.NotNil(t, block)
			require.Equal(t, bind, bytes.Contains(block.Bytes, bound))
			m, err := d.DecryptBytes(data)
			require.NoError(t, err)
			require.True(t, m.Authenticated)
			content := m.Content
			if o != nil {
				pool := x509.NewCertPool()
				pool.AddCert(o.Certificate)
				s, err := cms.Verify(content, cms.VerifyConfig{Roots: pool, CurrentTime: o.Certificate.NotAfter})
				require.NoError(t, err)
				content = s.Content
			}
			require.Equal(t, configuration, content)
		}
	}
}
