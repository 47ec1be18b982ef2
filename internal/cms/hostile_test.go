package cms_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/cms"
)

// tlv is a DER value in tests.
func tlv(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	out := []byte{tag}
	switch n := len(body); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, body...)
}

// split reads one DER value.
func split(t testing.TB, der []byte) (tag byte, body, rest []byte) {
	t.Helper()
	tag, n, pos := der[0], int(der[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		n = 0
		for _, b := range der[2 : 2+k] {
			n = n<<8 | int(b)
		}
		pos += k
	}
	return tag, der[pos : pos+n], der[pos+n:]
}

// indefinite rewrites every constructed value of a message with indefinite lengths, and the content into pieces of size
// bytes, which nest when deep is set.
func indefinite(t testing.TB, der []byte, size int, deep bool) []byte {
	t.Helper()
	tag, body, rest := split(t, der)
	require.Empty(t, rest)
	var inner []byte
	if tag&0x20 == 0 {
		if tag != 0x80 || len(body) < 32 {
			return der // not the content
		}
		for len(body) > 0 {
			n := min(size, len(body))
			piece := tlv(0x04, body[:n])
			if deep {
				piece = append(append([]byte{0x24, 0x80}, piece...), 0, 0)
			}
			inner, body = append(inner, piece...), body[n:]
		}
		tag |= 0x20
	} else {
		for len(body) > 0 {
			_, _, next := split(t, body)
			inner = append(inner, indefinite(t, body[:len(body)-len(next)], size, deep)...)
			body = next
		}
	}
	return append(append([]byte{tag, 0x80}, inner...), 0, 0)
}

func TestIndefiniteLengths(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 50)
	for _, id := range identities(t) {
		d := newDecrypter(t, id.key, id)
		for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
			der, err := cms.Encrypt(content, cms.EncryptConfig{Recipients: certs(id), Cipher: cipher})
			require.NoError(t, err)
			for _, size := range []int{1, 7, 16, 1000} {
				for _, deep := range []bool{false, true} {
					ber := indefinite(t, der, size, deep)
					before := bytes.Clone(ber)
					for _, read := range []func(d *cms.Decrypter) (*cms.Message, error){
						func(d *cms.Decrypter) (*cms.Message, error) { return d.DecryptBytes(ber) },
						func(d *cms.Decrypter) (*cms.Message, error) { return d.Decrypt(bytes.NewReader(ber)) },
					} {
						m, err := read(d)
						require.NoError(t, err, "%s pieces of %d", id.name, size)
						require.Equal(t, content, m.Content)
					}
					require.Equal(t, before, ber)
				}
			}
			// Missing end marks at every place.
			ber := indefinite(t, der, 100, true)
			for i := range ber {
				_, err := d.DecryptBytes(ber[:i])
				require.Error(t, err)
			}
			_, err = d.DecryptBytes(append(ber, 0, 0))
			require.ErrorIs(t, err, cms.ErrMalformed)
		}
	}
}

// TestTruncated cuts every form at every length, and feeds it in single bytes.
func TestTruncated(t *testing.T) {
	id := identities(t)[1]
	der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	mimeText := []byte("MIME-Version: 1.0\nContent-Type: application/pkcs7-mime; smime-type=authEnveloped-data\nContent-Transfer-Encoding: base64\n\n" +
		base64.StdEncoding.EncodeToString(der) + "\n")
	d := newDecrypter(t, id.key, id)
	for _, whole := range [][]byte{der, cms.EncodePEM(der), mimeText, append([]byte("\xef\xbb\xbf\r\n \n"), cms.EncodePEM(der)...)} {
		m, err := d.Decrypt(iotest.OneByteReader(bytes.NewReader(whole)))
		require.NoError(t, err)
		require.Equal(t, unixConfig, m.Content)
		m, err = d.Decrypt(iotest.DataErrReader(bytes.NewReader(bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n")))))
		if bytes.Equal(whole, der) {
			_ = m // a binary message with changed bytes may be anything
		} else {
			require.NoError(t, err)
			require.Equal(t, unixConfig, m.Content)
		}
		text := len(bytes.TrimRight(whole, "\n"))
		for i := range text {
			_, err := d.DecryptBytes(whole[:i])
			require.Error(t, err, "cut at %d", i)
		}
		_, err = d.Decrypt(io.MultiReader(bytes.NewReader(whole[:text/2]), iotest.ErrReader(errors.New("link is down"))))
		require.ErrorContains(t, err, "link is down")
	}
	_, err = d.DecryptBytes(nil)
	require.ErrorIs(t, err, cms.ErrEmpty)
}

// TestFlippedBits changes every byte of a message. An authenticated one is never read otherwise than it was written.
func TestFlippedBits(t *testing.T) {
	for _, id := range identities(t)[:2] {
		der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
		require.NoError(t, err)
		d := newDecrypter(t, id.key)
		for i := range der {
			bad := bytes.Clone(der)
			bad[i] ^= 1 << (i % 8)
			if m, err := d.DecryptBytes(bad); err == nil {
				require.Equal(t, unixConfig, m.Content, "byte %d", i)
				require.True(t, m.Authenticated)
			}
		}
	}
	// CBC can be changed without notice, which is why the caller can refuse it.
	id := identities(t)[0]
	der, err := cms.Encrypt([]byte("hostname SN1"), cms.EncryptConfig{Recipients: certs(id), Cipher: cms.AES256CBC})
	require.NoError(t, err)
	ciphertext, _, err := cms.Sealed(der)
	require.NoError(t, err)
	iv := bytes.Index(der, ciphertext) - 18
	der[iv+1] ^= 0x20
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: id.key, RequireAuthenticated: true})
	require.NoError(t, err)
	_, err = d.DecryptBytes(der)
	require.ErrorIs(t, err, cms.ErrUnauthenticated)
	m, err := newDecrypter(t, id.key).DecryptBytes(der)
	require.NoError(t, err)
	require.False(t, m.Authenticated)
	require.NotEqual(t, []byte("hostname SN1"), m.Content)
}

// envelope builds an EnvelopedData or AuthEnvelopedData from parts.
type envelope struct {
	auth       bool
	recipients []byte
	alg        []byte
	content    []byte
	tail       []byte
}

var (
	oidEnveloped = tlv(6, unhex("2a864886f70d010703"))
	oidAuth      = tlv(6, unhex("2a864886f70d0109100117"))
	oidData      = tlv(6, unhex("2a864886f70d010701"))
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func (e envelope) der() []byte {
	oid := oidEnveloped
	if e.auth {
		oid = oidAuth
	}
	return tlv(0x30, oid, tlv(0xa0, tlv(0x30, []byte{2, 1, 0}, tlv(0x31, e.recipients),
		tlv(0x30, oidData, e.alg, e.content), e.tail)))
}

// parts takes a message apart.
func parts(t testing.TB, der []byte) envelope {
	t.Helper()
	_, body, _ := split(t, der)
	_, oid, rest := split(t, body)
	_, rest, _ = split(t, rest)
	_, rest, _ = split(t, rest)
	_, _, rest = split(t, rest)
	_, recipients, rest := split(t, rest)
	_, eci, tail := split(t, rest)
	_, _, eci = split(t, eci)
	_, algBody, content := split(t, eci)
	return envelope{len(oid) > 9, recipients, tlv(0x30, algBody), content, tail}
}

func gcmAlg(oidLast byte, nonce int, rest ...byte) []byte {
	return tlv(0x30, tlv(6, append(unhex("6086480165030401"), oidLast)), tlv(0x30, tlv(4, make([]byte, nonce)), rest))
}

func TestBounds(t *testing.T) {
	rsaID, ecID := identities(t)[0], identities(t)[1]
	gcm, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(rsaID)})
	require.NoError(t, err)
	good := parts(t, gcm)
	require.Equal(t, gcm, good.der())
	ecDER, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(ecID)})
	require.NoError(t, err)
	mac := func(n int) []byte { return tlv(4, make([]byte, n)) }
	with := func(change func(e *envelope)) []byte {
		e := good
		change(&e)
		return e.der()
	}
	nest := func(n int) []byte {
		return with(func(e *envelope) {
			e.tail = append(append(bytes.Repeat([]byte{0xa1, 0x80}, n), bytes.Repeat([]byte{0, 0}, n)...), e.tail...)
		})
	}
	other := tlv(0xa3, []byte{2, 1, 0})
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nonce 0":               {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 0, 2, 1, 16) }), cms.ErrMalformed},
		"nonce 11":              {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 11, 2, 1, 16) }), cms.ErrMalformed},
		"nonce 17":              {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 17, 2, 1, 16) }), cms.ErrMalformed},
		"nonce 65536":           {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 65536, 2, 1, 16) }), cms.ErrMalformed},
		"nonce 16":              {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 16, 2, 1, 16) }), cms.ErrDecrypt},
		"nonce 16 and tag 12":   {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 16); e.tail = mac(12) }), cms.ErrUnsupported},
		"tag 4":                 {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 12, 2, 1, 4); e.tail = mac(4) }), cms.ErrMalformed},
		"tag 17":                {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 12, 2, 1, 17); e.tail = mac(17) }), cms.ErrMalformed},
		"tag negative":          {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 12, 2, 1, 0xf0) }), cms.ErrMalformed},
		"tag default is 12":     {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 12) }), cms.ErrMalformed},
		"tag 12, announced":     {with(func(e *envelope) { e.alg = gcmAlg(0x2e, 12); e.tail = mac(12) }), cms.ErrDecrypt},
		"tag cut":               {with(func(e *envelope) { e.tail = mac(12) }), cms.ErrMalformed},
		"no tag":                {with(func(e *envelope) { e.tail = nil }), cms.ErrMalformed},
		"GCM without tag":       {with(func(e *envelope) { e.auth, e.tail = false, nil }), cms.ErrMalformed},
		"CBC with tag":          {with(func(e *envelope) { e.alg = tlv(0x30, tlv(6, unhex("60864801650304012a")), tlv(4, make([]byte, 16))) }), cms.ErrMalformed},
		"CBC with short IV":     {with(func(e *envelope) { e.alg = tlv(0x30, tlv(6, unhex("60864801650304012a")), tlv(4, make([]byte, 8))) }), cms.ErrMalformed},
		"triple DES":            {with(func(e *envelope) { e.alg = tlv(0x30, tlv(6, unhex("2a864886f70d0307")), tlv(4, make([]byte, 8))) }), cms.ErrUnsupported},
		"content elsewhere":     {with(func(e *envelope) { e.content = nil }), cms.ErrUnsupported},
		"trailing":              {append(bytes.Clone(gcm), 0), cms.ErrMalformed},
		"no recipient":          {with(func(e *envelope) { e.recipients = nil }), cms.ErrNotRecipient},
		"other recipients only": {with(func(e *envelope) { e.recipients = bytes.Repeat(other, 3) }), cms.ErrNotRecipient},
		"EC recipient only":     {ecDER, cms.ErrNotRecipient},
		"64 recipients":         {with(func(e *envelope) { e.recipients = append(bytes.Repeat(other, 63), e.recipients...) }), nil},
		"65 recipients":         {with(func(e *envelope) { e.recipients = append(bytes.Repeat(other, 64), e.recipients...) }), cms.ErrMalformed},
		"recipient of no kind":  {with(func(e *envelope) { e.recipients = append(tlv(0xa9), e.recipients...) }), cms.ErrMalformed},
		"huge recipient": {with(func(e *envelope) {
			e.recipients = append(tlv(0xa3, tlv(4, make([]byte, cms.MaxMeta+1))), e.recipients...)
		}), cms.ErrMalformed},
		"many elements": {with(func(e *envelope) {
			e.tail = append(tlv(0xa1, bytes.Repeat([]byte{5, 0}, cms.MaxElements+1)), e.tail...)
		}), cms.ErrMalformed},
		"nested 20":     {nest(20), cms.ErrDecrypt}, // the attributes are authenticated
		"nested 40":     {nest(40), cms.ErrMalformed},
		"nested 200000": {nest(200000), cms.ErrMalformed},
		"pieces nested 200000": {with(func(e *envelope) {
			e.content = bytes.Repeat([]byte{0xa0, 0x80}, 1)
			e.content = append(e.content, bytes.Repeat([]byte{0x24, 0x80}, 200000)...)
		}), cms.ErrMalformed},
		"length above what is left": {append([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, gcm[4:]...), cms.ErrMalformed},
		"length above 64 bits":      {append([]byte{0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, gcm[4:]...), cms.ErrMalformed},
		"signed data":               {tlv(0x30, tlv(6, unhex("2a864886f70d010702")), tlv(0xa0, tlv(0x30))), cms.ErrUnsupported},
		"compressed data":           {tlv(0x30, tlv(6, unhex("2a864886f70d0109100109")), tlv(0xa0, tlv(0x30))), cms.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newDecrypter(t, rsaID.key).DecryptBytes(c.data)
			require.ErrorIs(t, err, c.want)
			if err != nil {
				require.Less(t, len(err.Error()), 300)
			}
		})
	}
	d, err := cms.NewDecrypter(cms.DecrypterConfig{Key: rsaID.key, MaxSize: int64(len(gcm)) - 1})
	require.NoError(t, err)
	for _, data := range [][]byte{gcm, cms.EncodePEM(gcm)} {
		_, err = d.DecryptBytes(data)
		require.ErrorIs(t, err, cms.ErrTooLarge)
		_, err = d.Decrypt(io.MultiReader(bytes.NewReader(data)))
		require.ErrorIs(t, err, cms.ErrTooLarge)
	}
}

// TestBadPoints sends points that are not on the curve, on another curve, or none.
func TestBadPoints(t *testing.T) {
	id := identities(t)[1]
	der, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	i := bytes.Index(der, []byte{0x03, 0x42, 0x00, 0x04})
	for name, change := range map[string]func(p []byte){
		"off the curve": func(p []byte) { p[64] ^= 1 },
		"compressed":    func(p []byte) { p[0] = 2 },
		"infinity":      func(p []byte) { clear(p) },
		"hybrid":        func(p []byte) { p[0] = 6 },
	} {
		t.Run(name, func(t *testing.T) {
			bad := bytes.Clone(der)
			change(bad[i+3 : i+68])
			_, err := newDecrypter(t, id.key).DecryptBytes(bad)
			require.ErrorIs(t, err, cms.ErrNotRecipient)
		})
	}
	for _, other := range identities(t)[2:] {
		_, err := newDecrypter(t, other.key).DecryptBytes(der)
		require.ErrorIs(t, err, cms.ErrNotRecipient)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, err = newDecrypter(t, key).DecryptBytes(der)
	require.Same(t, cms.ErrDecrypt, err, "the wrong key on the right curve")
}

func TestKeysRefused(t *testing.T) {
	small := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	ed := signers(t)[4]
	for name, cfg := range map[string]cms.DecrypterConfig{
		"none": {}, "RSA 1024": {Key: small}, "P-224": {Key: p224}, "Ed25519": {Key: ed.key}, "text": {Key: "key"},
		"nil certificate": {Key: identities(t)[0].key, Certificates: []*x509.Certificate{nil}},
	} {
		_, err := cms.NewDecrypter(cfg)
		require.ErrorContains(t, err, "cms: decrypter", name)
	}
	for name, cfg := range map[string]cms.EncryptConfig{
		"none": {}, "nil": {Recipients: []*x509.Certificate{nil}}, "Ed25519": {Recipients: certs(ed)},
		"too many":      {Recipients: certs(make([]identity, cms.MaxRecipients+1)...)},
		"RSA 1024":      {Recipients: []*x509.Certificate{{PublicKey: &small.PublicKey}}},
		"P-224":         {Recipients: []*x509.Certificate{{PublicKey: &p224.PublicKey}}},
		"no identifier": {Recipients: []*x509.Certificate{{PublicKey: identities(t)[0].key.Public()}}, KeyIdentifiers: true},
		"cipher":        {Recipients: certs(identities(t)[0]), Cipher: 7},
	} {
		_, err := cms.Encrypt([]byte("x"), cfg)
		require.ErrorContains(t, err, "cms: encrypting", name)
	}
}

func TestDetect(t *testing.T) {
	id := identities(t)[0]
	enc, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	signed, err := cms.Sign(unixConfig, cms.SignConfig{Key: id.key, Certificate: id.cert})
	require.NoError(t, err)
	mimeOf := func(typ string, der []byte) string {
		return "MIME-Version: 1.0\r\nContent-Type: " + typ + ";\r\n smime-type=x; name=\"smime.p7m\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
			base64.StdEncoding.EncodeToString(der) + "\r\n"
	}
	for name, c := range map[string]struct {
		data string
		want cms.Kind
	}{
		"empty":                 {"", cms.KindEmpty},
		"text":                  {"hostname SN1\n", cms.KindPlain},
		"YAML":                  {"---\nhostname: SN1\n", cms.KindPlain},
		"looks like a header":   {"hostname: SN1\nuser: x\n\npassword", cms.KindPlain},
		"XML":                   {"<configuration/>", cms.KindPlain},
		"zero byte":             {"\x00", cms.KindPlain},
		"one DER byte":          {"0", cms.KindPlain},
		"DER of something":      {"\x30\x03\x02\x01\x00", cms.KindPlain},
		"PEM certificate":       {"-----BEGIN CERTIFICATE-----\nMIIB\n", cms.KindPlain},
		"PEM below text":        {"hostname SN1\n-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n", cms.KindPlain},
		"PEM":                   {string(cms.EncodePEM(enc)), cms.KindEncrypted},
		"PEM, spaces before":    {"\r\n \t" + string(cms.EncodePEM(enc)), cms.KindEncrypted},
		"PEM, byte order mark":  {"\xef\xbb\xbf" + string(cms.EncodePEM(enc)), cms.KindEncrypted},
		"PEM, label of gpgsm":   {strings.ReplaceAll(string(cms.EncodePEM(enc)), " CMS-", " ENCRYPTED MESSAGE-"), cms.KindEncrypted},
		"PEM, signed":           {string(cms.EncodePEM(signed)), cms.KindSigned},
		"PEM, cut after label":  {"-----BEGIN CMS-----", cms.KindOther},
		"PEM, nonsense":         {"-----BEGIN CMS-----\n!!!!\n", cms.KindOther},
		"DER":                   {string(enc), cms.KindEncrypted},
		"BER":                   {string(indefinite(t, enc, 10, false)), cms.KindEncrypted},
		"DER, signed":           {string(signed), cms.KindSigned},
		"DER, data":             {string(tlv(0x30, oidData)), cms.KindOther},
		"MIME":                  {mimeOf("application/pkcs7-mime", enc), cms.KindEncrypted},
		"MIME, old type":        {mimeOf("application/x-pkcs7-mime", enc), cms.KindEncrypted},
		"MIME, RFC 7193":        {mimeOf("application/cms", signed), cms.KindSigned},
		"MIME, mail headers":    {"To: a@example.com\nSubject: x: y\n" + mimeOf("application/pkcs7-mime", enc), cms.KindEncrypted},
		"MIME, other type":      {mimeOf("text/plain", enc), cms.KindPlain},
		"MIME, nonsense":        {mimeOf("application/pkcs7-mime", []byte("nonsense")), cms.KindOther},
		"MIME, binary":          {"Content-Type: application/cms\nContent-Transfer-Encoding: binary\n\n" + string(enc), cms.KindEncrypted},
		"MIME, binary nonsense": {"Content-Type: application/cms\nContent-Transfer-Encoding: binary\n\nx", cms.KindOther},
		"MIME, multipart":       {"Content-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; boundary=x\n\n--x\n", cms.KindOther},
		"MIME, header too long": {strings.Repeat("a: b\n", 5000) + mimeOf("application/pkcs7-mime", enc), cms.KindPlain},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, cms.Detect([]byte(c.data)))
			m, err := newDecrypter(t, id.key).DecryptBytes([]byte(c.data))
			switch c.want {
			case cms.KindEncrypted:
				require.NoError(t, err)
				require.Equal(t, unixConfig, m.Content)
			case cms.KindEmpty:
				require.ErrorIs(t, err, cms.ErrEmpty)
			case cms.KindPlain:
				require.ErrorIs(t, err, cms.ErrPlain)
			default:
				require.ErrorIs(t, err, cms.ErrUnsupported)
			}
			require.NotEmpty(t, c.want.String())
		})
	}
}

func TestBadArmor(t *testing.T) {
	id := identities(t)[0]
	enc, err := cms.Encrypt(unixConfig, cms.EncryptConfig{Recipients: certs(id)})
	require.NoError(t, err)
	text := string(cms.EncodePEM(enc))
	for name, bad := range map[string]string{
		"other end":        strings.Replace(text, "END CMS", "END PKCS7", 1),
		"text after end":   text + "hostname evil\n",
		"two messages":     text + text,
		"bad character":    strings.Replace(text, "\nMI", "\nM!", 1),
		"padding inside":   text[:200] + "====" + text[200:],
		"header inside":    strings.Replace(text, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
		"no end":           text[:strings.Index(text, "-----END")],
		"end without line": text[:strings.Index(text, "-----END")+8],
		"MIME, encoding":   "Content-Type: application/cms\nContent-Transfer-Encoding: quoted-printable\n\n" + base64.StdEncoding.EncodeToString(enc),
		"MIME, text after": "Content-Type: application/cms\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(enc) + "\n--boundary\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newDecrypter(t, id.key).DecryptBytes([]byte(bad))
			require.Error(t, err)
			require.True(t, errors.Is(err, cms.ErrMalformed) || errors.Is(err, cms.ErrUnsupported), "%v", err)
		})
	}
}

// TestKeyWrapVectors are the vectors of RFC 3394, sections 4.1 to 4.6.
func TestKeyWrapVectors(t *testing.T) {
	const key128, key192 = "00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff0001020304050607"
	const key256 = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"
	const kek = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for _, c := range []struct{ kek, key, want string }{
		{kek[:32], key128, "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"},
		{kek[:48], key128, "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d"},
		{kek, key128, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"},
		{kek[:48], key192, "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2"},
		{kek, key192, "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1"},
		{kek, key256, "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"},
	} {
		got, err := cms.WrapKey(unhex(c.kek), unhex(c.key))
		require.NoError(t, err)
		require.Equal(t, c.want, hex.EncodeToString(got))
		back, err := cms.UnwrapKey(unhex(c.kek), got, len(c.key)/2)
		require.NoError(t, err)
		require.Equal(t, c.key, hex.EncodeToString(back))
		for i := range got {
			bad := bytes.Clone(got)
			bad[i] ^= 1
			_, err := cms.UnwrapKey(unhex(c.kek), bad, len(c.key)/2)
			require.Error(t, err)
		}
		_, err = cms.UnwrapKey(unhex(c.kek), got[:len(got)-8], len(c.key)/2)
		require.Error(t, err)
	}
}
