package cms_test

import (
	"bytes"
	"encoding/base64"
	"testing"
	"time"

	"github.com/mooringlib/mooring/internal/cms"
)

// fuzzID is a fixed identity, so that seeds and the corpus stay useful from run to run.
func fuzzID(t testing.TB) identity { return identities(t)[1] }

func seeds(f *testing.F) [][]byte {
	f.Helper()
	var out [][]byte
	for _, id := range identities(f) {
		for _, cipher := range []cms.Cipher{cms.AES256GCM, cms.AES256CBC} {
			der, err := cms.Encrypt([]byte("hostname SN1, and more than a block"), cms.EncryptConfig{Recipients: certs(id), Cipher: cipher})
			if err != nil {
				f.Fatal(err)
			}
			out = append(out, der, indefinite(f, der, 10, true), indefinite(f, der, 16, false), cms.EncodePEM(der),
				[]byte("MIME-Version: 1.0\nContent-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\n"+
					base64.StdEncoding.EncodeToString(der)))
		}
	}
	attrs, err := cms.OwnerClaims{Serial: "SN1", Counter: 300}.Attributes()
	if err != nil {
		f.Fatal(err)
	}
	id := fuzzID(f)
	der, err := cms.Sign([]byte("hostname SN1"), cms.SignConfig{Key: id.key, Certificate: id.cert, Attributes: attrs, SigningTime: time.Now()})
	if err != nil {
		f.Fatal(err)
	}
	return append(out, der, cms.EncodePEM(der), indefinite(f, der, 4, true), []byte("hostname SN1\n"), nil,
		bytes.Repeat([]byte{0x30, 0x80}, 100), bytes.Repeat([]byte{0x24, 0x80}, 100))
}

// FuzzDecrypt reads any bytes as a message. It must not fail otherwise than with an error, must not change its input,
// and must come to the same end through both doors.
func FuzzDecrypt(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		id := fuzzID(t)
		d := newDecrypter(t, id.key)
		before := bytes.Clone(data)
		m1, err1 := d.DecryptBytes(data)
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		m2, err2 := d.Decrypt(bytes.NewReader(data))
		if (err1 == nil) != (err2 == nil) || err1 == nil && !bytes.Equal(m1.Content, m2.Content) {
			t.Fatalf("%v, %v", err1, err2)
		}
		if err1 == nil && cms.Detect(data[:min(len(data), cms.DetectLen)]) != cms.KindEncrypted {
			t.Fatal("decrypted what is not detected")
		}
	})
}

// FuzzVerify reads any bytes as a signed message. Nothing but what the signer signed is ever accepted.
func FuzzVerify(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		id := fuzzID(t)
		s, err := cms.Verify(data, cms.VerifyConfig{Roots: pool(id.cert), Certificates: certs(id)})
		if err != nil {
			return
		}
		if !bytes.Equal(s.Content, []byte("hostname SN1")) {
			t.Fatalf("verified %q", s.Content)
		}
		if c, err := cms.ParseOwnerClaims(s.Attributes); err != nil || c.Serial != "SN1" || c.Counter != 300 {
			t.Fatalf("claims %v, %v", c, err)
		}
	})
}

// FuzzBER rewrites any element to DER. What comes out is DER: rewriting it again changes nothing.
func FuzzBER(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Add([]byte{0x24, 0x80, 0x04, 0x01, 1, 0x24, 0x80, 0x04, 0x01, 2, 0, 0, 0, 0})
	f.Add([]byte{0x30, 0x84, 0, 0, 0, 2, 5, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		der, err := cms.ToDER(data)
		if err != nil {
			return
		}
		if len(der) > cms.MaxMeta {
			t.Fatalf("%d bytes", len(der))
		}
		again, err := cms.ToDER(der)
		if err != nil || !bytes.Equal(der, again) {
			t.Fatalf("%x became %x, %v", der, again, err)
		}
	})
}

// FuzzDetect looks at any bytes. The answer for plain text must not depend on what stands far behind.
func FuzzDetect(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind := cms.Detect(data)
		if (kind == cms.KindEmpty) != (len(data) == 0) {
			t.Fatalf("%v for %d bytes", kind, len(data))
		}
		if len(data) > cms.DetectLen && cms.Detect(data[:cms.DetectLen]) != kind {
			t.Fatal("the answer depends on more than DetectLen bytes")
		}
	})
}
