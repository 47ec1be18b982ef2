package cms_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
)

// signers is identities with an Ed25519 key.
func signers(t testing.TB) []identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	cert, err := selfSigned(key, "ed25519")
	require.NoError(t, err)
	return append(append([]identity(nil), identities(t)...), identity{"ed25519", key, cert})
}

func pool(list ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range list {
		p.AddCert(c)
	}
	return p
}

func TestSignVerify(t *testing.T) {
	claims := cms.OwnerClaims{Serial: "SN19842256", Counter: math.MaxUint64}
	attrs, err := claims.Attributes()
	require.NoError(t, err)
	for _, id := range signers(t) {
		for _, size := range []int{0, 1, 127, 128, 70000} {
			content := bytes.Repeat([]byte("y"), size)
			der, err := cms.Sign(content, cms.SignConfig{Key: id.key, Certificate: id.cert, Attributes: attrs, SigningTime: time.Now()})
			require.NoError(t, err)
			require.Equal(t, cms.KindSigned, cms.Detect(der))
			for _, data := range [][]byte{der, cms.EncodePEM(der)} {
				require.Equal(t, cms.KindSigned, cms.Detect(data))
				s, err := cms.Verify(data, cms.VerifyConfig{Roots: pool(id.cert)})
				require.NoError(t, err, id.name)
				require.True(t, bytes.Equal(content, s.Content))
				require.True(t, s.Signer.Equal(id.cert))
				require.Len(t, s.Chains, 1)
				got, err := cms.ParseOwnerClaims(s.Attributes)
				require.NoError(t, err)
				require.Equal(t, claims, got)
			}
			// Any change at all is found.
			if size == 1 && (id.name == "rsa2048" || id.name == "P-256") {
				for i := range der {
					bad := bytes.Clone(der)
					bad[i] ^= 1
					s, err := cms.Verify(bad, cms.VerifyConfig{Roots: pool(id.cert)})
					if err == nil {
						// What is not signed may change where nobody looks: version numbers, the list of digests, and the
						// certificate's own signature, since it is pinned.
						require.Equal(t, content, s.Content)
						got, err := cms.ParseOwnerClaims(s.Attributes)
						require.NoError(t, err)
						require.Equal(t, claims, got)
					}
				}
				for i := range der {
					_, err := cms.Verify(der[:i], cms.VerifyConfig{Roots: pool(id.cert)})
					require.Error(t, err)
				}
			}
		}
	}
}

// TestVerifyOpenSSL verifies what openssl cms -sign writes.
func TestVerifyOpenSSL(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	for _, id := range identities(t) { // openssl 3.0 has no CMS with Ed25519
		id.write(t, dir)
		tools := []string{"cms"}
		if strings.HasPrefix(id.name, "rsa") {
			tools = append(tools, "smime")
		}
		for _, tool := range tools {
			for _, form := range []string{"DER", "PEM", "SMIME"} {
				for _, opts := range []string{"", "-stream", "-keyid", "-md sha384", "-md sha512", "-nosmimecap", "-keyopt rsa_padding_mode:pss",
					"-md sha512 -keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:20"} {
					if strings.Contains(opts, "pss") && !strings.HasPrefix(id.name, "rsa") ||
						tool == "smime" && (strings.Contains(opts, "-key") || opts == "-nosmimecap") {
						continue
					}
					args := append([]string{tool, "-sign", "-binary", "-nodetach", "-in", "cfg", "-signer", id.name + ".crt", "-inkey", id.name + ".key",
						"-outform", form}, strings.Fields(opts)...)
					data := openssl(t, dir, args...)
					require.Equal(t, cms.KindSigned, cms.Detect(data), "%v", args)
					s, err := cms.Verify(data, cms.VerifyConfig{Roots: pool(id.cert)})
					require.NoError(t, err, "%v", args)
					require.Equal(t, unixConfig, s.Content)
					require.True(t, s.Signer.Equal(id.cert))
					claims, err := cms.ParseOwnerClaims(s.Attributes)
					require.NoError(t, err)
					require.Zero(t, claims)
				}
			}
		}
	}
	sign := func(extra ...string) []byte {
		return openssl(t, dir, append([]string{"cms", "-sign", "-binary", "-in", "cfg", "-outform", "DER"}, extra...)...)
	}
	rsa := []string{"-signer", "rsa2048.crt", "-inkey", "rsa2048.key"}
	ec := []string{"-signer", "P-256.crt", "-inkey", "P-256.key"}
	ids := identities(t)
	for name, c := range map[string]struct {
		data  []byte
		roots *x509.CertPool
		want  error
	}{
		"two signers, one known":        {sign(append(append([]string{"-nodetach"}, rsa...), ec...)...), pool(ids[1].cert), nil},
		"two signers, none known":       {sign(append(append([]string{"-nodetach"}, rsa...), ec...)...), pool(ids[2].cert), cms.ErrUntrusted},
		"without attributes":            {sign(append([]string{"-nodetach", "-noattr"}, rsa...)...), pool(ids[0].cert), cms.ErrSignature},
		"SHA-1":                         {sign(append([]string{"-nodetach", "-md", "sha1"}, rsa...)...), pool(ids[0].cert), cms.ErrSignature},
		"another content type":          {sign(append([]string{"-nodetach", "-econtent_type", "1.2.840.113549.1.9.16.1.4"}, rsa...)...), pool(ids[0].cert), cms.ErrUnsupported},
		"detached":                      {sign(rsa...), pool(ids[0].cert), cms.ErrUnsupported},
		"without certificate":           {sign(append([]string{"-nodetach", "-nocerts"}, rsa...)...), pool(ids[0].cert), cms.ErrSignature},
		"detached, as mail":             {openssl(t, dir, append([]string{"cms", "-sign", "-in", "cfg"}, rsa...)...), pool(ids[0].cert), cms.ErrUnsupported},
		"plain":                         {unixConfig, pool(ids[0].cert), cms.ErrPlain},
		"empty":                         {nil, pool(ids[0].cert), cms.ErrEmpty},
		"no signer (certificates only)": {openssl(t, dir, "crl2pkcs7", "-nocrl", "-certfile", "rsa2048.crt", "-outform", "DER"), pool(ids[0].cert), cms.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cms.Verify(c.data, cms.VerifyConfig{Roots: c.roots})
			require.ErrorIs(t, err, c.want)
		})
	}
	s, err := cms.Verify(sign(append([]string{"-nodetach", "-nocerts"}, rsa...)...), cms.VerifyConfig{Roots: pool(ids[0].cert), Certificates: certs(ids[0])})
	require.NoError(t, err, "the certificate is known from elsewhere")
	require.Equal(t, unixConfig, s.Content)
}

// TestOpenSSLVerifies has openssl verify what Sign writes, and see the attributes.
func TestOpenSSLVerifies(t *testing.T) {
	dir := t.TempDir()
	attrs, err := cms.OwnerClaims{Serial: "SN1", Counter: 7}.Attributes()
	require.NoError(t, err)
	for _, id := range identities(t) {
		_, crt := id.write(t, dir)
		der, err := cms.Sign(unixConfig, cms.SignConfig{Key: id.key, Certificate: id.cert, Attributes: attrs, SigningTime: time.Now()})
		require.NoError(t, err)
		in := filepath.Join(dir, id.name+".der")
		require.NoError(t, os.WriteFile(in, der, 0o600))
		args := []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", in, "-CAfile", crt, "-purpose", "any"}
		require.Equal(t, unixConfig, openssl(t, dir, args...), id.name)
		printed := string(openssl(t, dir, "cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", in))
		require.Contains(t, printed, "2.25.236472478664102717955965976343634562578.1")
		require.Contains(t, printed, "2.25.236472478664102717955965976343634562578.2")
	}
}

// TestOwnerSignedInsideEncryption is the whole of what an operator does, with openssl on either side.
func TestOwnerSignedInsideEncryption(t *testing.T) {
	dir := t.TempDir()
	device, owner := identities(t)[1], identities(t)[2]
	key, crt := device.write(t, dir)
	_, ownerCrt := owner.write(t, dir)
	signed, err := cms.Sign(unixConfig, cms.SignConfig{Key: owner.key, Certificate: owner.cert})
	require.NoError(t, err)
	der, err := cms.Encrypt(signed, cms.EncryptConfig{Recipients: certs(device)})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "enc"), der, 0o600))
	inner := openssl(t, dir, "cms", "-decrypt", "-binary", "-inform", "DER", "-in", "enc", "-inkey", key, "-recip", crt)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inner"), inner, 0o600))
	require.Equal(t, unixConfig, openssl(t, dir, "cms", "-verify", "-binary", "-inform", "DER", "-in", "inner", "-CAfile", ownerCrt, "-purpose", "any"))

	require.NoError(t, os.WriteFile(filepath.Join(dir, "cfg"), unixConfig, 0o600))
	for _, form := range []string{"DER", "PEM", "SMIME"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "signed"), openssl(t, dir, "cms", "-sign", "-binary", "-nodetach", "-in", "cfg",
			"-signer", owner.name+".crt", "-inkey", owner.name+".key", "-outform", form), 0o600))
		data := openssl(t, dir, "cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", "signed", "-outform", "PEM", crt)
		m, err := newDecrypter(t, device.key).DecryptBytes(data)
		require.NoError(t, err)
		require.Equal(t, cms.KindSigned, cms.Detect(m.Content))
		s, err := cms.Verify(m.Content, cms.VerifyConfig{Roots: pool(owner.cert)})
		require.NoError(t, err)
		require.Equal(t, unixConfig, s.Content)
	}
}

func TestVerifyChain(t *testing.T) {
	ca, leaf := identities(t)[2], identities(t)[1]
	now := time.Now()
	issue := func(subject string, pub crypto.PublicKey, parent *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: subject},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
		change(tmpl)
		if parent == nil {
			parent = tmpl
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, ca.key)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert
	}
	root := issue("root", ca.key.Public(), nil, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	good := issue("owner", leaf.key.Public(), root, func(*x509.Certificate) {})
	for name, c := range map[string]struct {
		cert *x509.Certificate
		now  time.Time
		want error
	}{
		"good":         {good, time.Time{}, nil},
		"expired":      {good, now.Add(2 * time.Hour), cms.ErrUntrusted},
		"not yet":      {good, now.Add(-2 * time.Hour), cms.ErrUntrusted},
		"may not sign": {issue("owner", leaf.key.Public(), root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), time.Time{}, cms.ErrUntrusted},
		"may sign":     {issue("owner", leaf.key.Public(), root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), time.Time{}, nil},
		"self-signed":  {leaf.cert, time.Time{}, cms.ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := cms.Sign([]byte("x"), cms.SignConfig{Key: leaf.key, Certificate: c.cert, Chain: []*x509.Certificate{root}})
			require.NoError(t, err)
			_, err = cms.Verify(der, cms.VerifyConfig{Roots: pool(root), CurrentTime: c.now})
			require.ErrorIs(t, err, c.want)
		})
	}
	_, err := cms.Verify([]byte("x"), cms.VerifyConfig{})
	require.ErrorContains(t, err, "no roots")
	_, err = cms.Verify([]byte("x"), cms.VerifyConfig{Roots: pool(root), AnySigner: true})
	require.ErrorContains(t, err, "roots and any signer")
	// Anybody's signature, of whatever time, is a checksum and no more.
	der, err := cms.Sign([]byte("text"), cms.SignConfig{Key: leaf.key, Certificate: good})
	require.NoError(t, err)
	s, err := cms.Verify(der, cms.VerifyConfig{AnySigner: true, CurrentTime: now.Add(9999 * time.Hour)})
	require.NoError(t, err)
	require.Equal(t, "text", string(s.Content))
	require.Empty(t, s.Chains)
	der[bytes.Index(der, []byte("text"))] ^= 1
	_, err = cms.Verify(der, cms.VerifyConfig{AnySigner: true})
	require.ErrorIs(t, err, cms.ErrSignature)
}

func TestSignRefuses(t *testing.T) {
	ids := identities(t)
	attr := func(oid string, value ...byte) cms.Attribute {
		o, err := x509.ParseOID(oid)
		require.NoError(t, err)
		return cms.Attribute{Type: o, Value: value}
	}
	for name, cfg := range map[string]cms.SignConfig{
		"nothing":            {},
		"other certificate":  {Key: ids[0].key, Certificate: ids[1].cert},
		"nil in chain":       {Key: ids[0].key, Certificate: ids[0].cert, Chain: []*x509.Certificate{nil}},
		"content type":       {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.840.113549.1.9.3", 5, 0)}},
		"signing time":       {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.840.113549.1.9.5", 5, 0)}},
		"attribute twice":    {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.3", 5, 0), attr("1.2.3", 5, 0)}},
		"attribute not DER":  {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.3", 5)}},
		"attribute two":      {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.3", 5, 0, 5, 0)}},
		"attribute no type":  {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{{Value: []byte{5, 0}}}},
		"attribute no value": {Key: ids[0].key, Certificate: ids[0].cert, Attributes: []cms.Attribute{attr("1.2.3")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cms.Sign([]byte("x"), cfg)
			require.ErrorContains(t, err, "cms: signing")
		})
	}
}

func TestOwnerClaims(t *testing.T) {
	for _, c := range []cms.OwnerClaims{{}, {Serial: "A"}, {Counter: 1}, {Serial: "gerät 7", Counter: 127},
		{Serial: strings.Repeat("x", 128), Counter: 1 << 63}, {Counter: 255}} {
		attrs, err := c.Attributes()
		require.NoError(t, err)
		got, err := cms.ParseOwnerClaims(attrs)
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
	for _, serial := range []string{strings.Repeat("x", 129), "a\nb", "\xff", "a\x7f", "\u0085"} {
		_, err := cms.OwnerClaims{Serial: serial}.Attributes()
		require.ErrorIs(t, err, cms.ErrMalformed, "%q", serial)
	}
	attrs, err := cms.OwnerClaims{Serial: "A", Counter: 5}.Attributes()
	require.NoError(t, err)
	for _, value := range []string{"", "\x02\x01\x00", "\x02\x01\xff", "\x02\x02\x00\x05", "\x02\x01\x05\x00", "\x02\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\x0c\x01A"} {
		_, err := cms.ParseOwnerClaims([]cms.Attribute{{Type: attrs[1].Type, Value: []byte(value)}})
		require.ErrorIs(t, err, cms.ErrMalformed, "%x", value)
	}
	for _, value := range []string{"", "\x0c\x00", "\x0c\x01\n", "\x0c\x01A\x00", "\x13\x01A", "\x02\x01\x05"} {
		_, err := cms.ParseOwnerClaims([]cms.Attribute{{Type: attrs[0].Type, Value: []byte(value)}})
		require.ErrorIs(t, err, cms.ErrMalformed, "%x", value)
	}
}

// TestHugeKeyInChain sends a chain through a certificate whose RSA key would take minutes to use.
func TestHugeKeyInChain(t *testing.T) {
	signer := identities(t)[1]
	n := new(big.Int).Lsh(big.NewInt(1), 1_500_000)
	huge := &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1}
	now := time.Now()
	big1 := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "big"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, big1, big1, huge, signer.key)
	require.NoError(t, err)
	ca, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, big1, signer.key.Public(), signer.key)
	require.NoError(t, err)
	// The signature is replaced by one that is as long as the key, in the algorithm of RSA.
	leaf, err := x509.ParseCertificate(rsaSigned(t, der, huge.Size()))
	require.NoError(t, err)
	require.Equal(t, x509.SHA256WithRSA, leaf.SignatureAlgorithm)
	msg, err := cms.Sign([]byte("x"), cms.SignConfig{Key: signer.key, Certificate: leaf, Chain: []*x509.Certificate{ca}})
	require.NoError(t, err)
	start := time.Now()
	_, err = cms.Verify(msg, cms.VerifyConfig{Roots: pool(identities(t)[2].cert)})
	t.Log(time.Since(start))
	require.ErrorIs(t, err, cms.ErrUntrusted)
	require.Less(t, time.Since(start), 5*time.Second)
}

// rsaSigned gives a certificate a signature of so many bytes that claims to be RSA.
func rsaSigned(t *testing.T, der []byte, size int) []byte {
	t.Helper()
	ecdsaAlg := tlv(0x30, tlv(6, unhex("2a8648ce3d040302")))
	rsaAlg := tlv(0x30, tlv(6, unhex("2a864886f70d01010b")), []byte{5, 0})
	_, body, _ := split(t, der)
	_, tbs, _ := split(t, body)
	require.True(t, bytes.Contains(tbs, ecdsaAlg))
	tbs = bytes.Replace(tbs, ecdsaAlg, rsaAlg, 1)
	return tlv(0x30, tlv(0x30, tbs), rsaAlg, tlv(3, []byte{0}, bytes.Repeat([]byte{1}, size)))
}
