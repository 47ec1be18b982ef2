package list_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/list"
)

var limits = list.Limits{Bytes: 64 << 20, Entries: 1 << 20}

// memFile is a file in memory.
type memFile struct{ bytes.Buffer }

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(p, off)
}

func spool(data []byte) (*list.Spooled, *memFile, error) {
	f := new(memFile)
	s, err := list.Spool(context.Background(), f, bytes.NewReader(data), limits)
	return s, f, err
}

func read(t testing.TB, ca *crltest.CA, data []byte) (*list.Verified, *list.Parsed, error) {
	t.Helper()
	s, f, err := spool(data)
	if err != nil {
		return nil, nil, err
	}
	require.True(t, bytes.Equal(data, f.Bytes()) || bytes.Contains(data, []byte("-----BEGIN")))
	v, err := s.Verify(ca.Cert.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	p, err := v.Entries(context.Background())
	return v, p, err
}

func find(p *list.Parsed, issuer uint32, serial *big.Int) (reason int, extra, ok bool) {
	mag := serial.Bytes()
	for i := range p.Classes {
		c := &p.Classes[i]
		if c.Issuer != issuer || c.Kind != index.Main || c.Negative != (serial.Sign() < 0) || c.Width != index.WidthFor(len(mag)) {
			continue
		}
		if payload, ok := c.View().Find(mag); ok {
			return int(payload[4] & index.ReasonMask), payload[4]&index.FlagExtra != 0, true
		}
	}
	return 0, false, false
}

func TestShapesOfEntries(t *testing.T) {
	ca := crltest.NewCA(t, "CA", crltest.Options{})
	long := new(big.Int).Lsh(big.NewInt(1), 300)
	invalid := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: []byte("\x18\x0f20200101000000Z")}
	l := crltest.List{Entries: []crltest.Entry{
		{Serial: big.NewInt(1)},
		{Serial: big.NewInt(0)},
		{Serial: big.NewInt(128), Reason: 1},
		{Serial: big.NewInt(-5), Reason: 4},
		{Serial: new(big.Int).Lsh(big.NewInt(0xff), 120), Reason: 6},
		{Serial: long},
		{Serial: big.NewInt(7), Generalized: true},
		{Serial: big.NewInt(8), Time: time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Serial: big.NewInt(9), Reason: 1, Extensions: []pkix.Extension{invalid}},
		{Serial: big.NewInt(10), Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{1}}}},
		{Serial: big.NewInt(10), Reason: 6},
	}}
	der := ca.Sign(t, l)
	v, p, err := read(t, ca, der)
	require.NoError(t, err)
	require.Equal(t, len(l.Entries), v.Count)
	require.Equal(t, 1, p.Duplicates)
	require.EqualValues(t, len(der), v.Size)
	require.Equal(t, ca.Cert.SubjectKeyId, v.KeyID)
	require.EqualValues(t, 1, v.Number.Int64())
	for _, e := range l.Entries[:10] {
		reason, extra, ok := find(p, 0, e.Serial)
		require.True(t, ok, "%v", e.Serial)
		require.Equal(t, e.Reason, reason)
		require.Equal(t, e.Time.Year() == 1960 || len(e.Extensions) > 0 && e.Serial.Int64() == 9, extra)
	}
	_, _, ok := find(p, 0, big.NewInt(5))
	require.False(t, ok, "5 is not -5")

	t.Run("PEM gives the same", func(t *testing.T) {
		text := append([]byte("made by a test\r\n\n"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
		w, _, err := read(t, ca, append(text, "trailing text\n"...))
		require.NoError(t, err)
		require.Equal(t, v.ID, w.ID)
		crlf := bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
		w, _, err = read(t, ca, append([]byte("-\n"), crlf...))
		require.NoError(t, err)
		require.Equal(t, v.ID, w.ID)
		long := ca.Sign(t, crltest.List{Entries: manyEntries(500)})
		w, _, err = read(t, ca, []byte("-----BEGIN X509 CRL-----\n"+base64.StdEncoding.EncodeToString(long)+"\n-----END X509 CRL-----\n"))
		require.NoError(t, err)
		require.Equal(t, 500, w.Count)
		one := "-----BEGIN X509 CRL-----\n" + base64.StdEncoding.EncodeToString(der)
		_, _, err = spool([]byte(one[:len(one)-10]))
		require.Error(t, err)
		_, _, err = spool(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		require.ErrorContains(t, err, `"PRIVATE KEY"`)
	})
	t.Run("cut off at each length", func(t *testing.T) {
		for n := range der {
			_, _, err := spool(der[:n])
			require.Error(t, err, "%d bytes", n)
		}
	})
	t.Run("one byte more", func(t *testing.T) {
		_, _, err := spool(append(bytes.Clone(der), 0))
		require.ErrorContains(t, err, "follow")
	})
	t.Run("each changed byte is noticed", func(t *testing.T) {
		for i := range der {
			bad := bytes.Clone(der)
			bad[i] ^= 0x20
			_, _, err := read(t, ca, bad)
			require.Error(t, err, "byte %d", i)
		}
	})
}

func TestRefused(t *testing.T) {
	ca := crltest.NewCA(t, "CA", crltest.Options{})
	unknown := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
	one := []crltest.Entry{{Serial: big.NewInt(1)}}
	for name, c := range map[string]struct {
		l    crltest.List
		want string
	}{
		"unknown critical extension":          {crltest.List{Extensions: []pkix.Extension{unknown}}, "unknown critical extension 1.2.3.4 in the list"},
		"unknown critical entry extension":    {crltest.List{Entries: []crltest.Entry{{Serial: big.NewInt(1), Extensions: []pkix.Extension{unknown}}}}, "unknown critical extension 1.2.3.4 in an entry"},
		"critical number":                     {crltest.List{NumberIsCritical: true}, "CRL number is marked critical"},
		"no number":                           {crltest.List{Number: -1}, "no CRL number"},
		"version 1":                           {crltest.List{Version1: true, Entries: one}, "no CRL number"},
		"twice the same extension":            {crltest.List{Extensions: []pkix.Extension{crltest.Number(4, false)}}, "2.5.29.20 is there twice"},
		"negative number":                     {crltest.List{Number: -1, Extensions: []pkix.Extension{crltest.Number(-4, false)}}, "negative"},
		"algorithms differ":                   {crltest.List{OuterAlgorithmDiffer: true}, "differ"},
		"bad signature":                       {crltest.List{BadSignature: true}, "signature does not verify"},
		"delta not critical":                  {crltest.List{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Value: []byte{2, 1, 1}}}}, "not marked critical"},
		"issuing distribution point is empty": {crltest.List{Extensions: []pkix.Extension{crltest.Scope{Raw: []byte{5, 0}}.Extension()}}, "malformed distribution point"},
		"certificate issuer, not indirect": {crltest.List{Entries: []crltest.Entry{{Serial: big.NewInt(1), Extensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}}}}, "not indirect"},
		"reason 7": {crltest.List{Entries: []crltest.Entry{{Serial: big.NewInt(1), Reason: 7}}}, "reason code"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t, ca, ca.Sign(t, c.l))
			require.ErrorContains(t, err, c.want)
		})
	}
	for name, c := range map[string]struct{ in, want string }{
		"web page":      {"<!DOCTYPE html><html><body>Log in</body></html>", "web page"},
		"empty":         {"", "cut off"},
		"text":          {"hello", "neither DER nor PEM"},
		"indefinite":    {"\x30\x80\x30\x80\x02\x01\x01\x00", "indefinite"},
		"too long":      {"\x30\x84\x7f\xff\xff\xff\x30\x84\x7f\xff\xff\xf0", "more than the limit"},
		"text for ever": {"-" + strings.Repeat("x\n", 1<<17), "neither DER nor PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := spool([]byte(c.in))
			require.ErrorContains(t, err, c.want)
		})
	}
}

func manyEntries(n int) (out []crltest.Entry) {
	for i := range n {
		out = append(out, crltest.Entry{Serial: big.NewInt(int64(i + 1))})
	}
	return out
}

func TestLimits(t *testing.T) {
	ca := crltest.NewCA(t, "CA", crltest.Options{})
	der := ca.Sign(t, crltest.List{Entries: manyEntries(100)})
	_, err := list.Spool(context.Background(), new(memFile), bytes.NewReader(der), list.Limits{Bytes: 1 << 20, Entries: 99})
	require.ErrorContains(t, err, "99 entries")
	_, err = list.Spool(context.Background(), new(memFile), bytes.NewReader(der), list.Limits{Bytes: int64(len(der)) - 1, Entries: 100})
	require.ErrorContains(t, err, "limit of")
	s, err := list.Spool(context.Background(), new(memFile), bytes.NewReader(der), list.Limits{Bytes: int64(len(der)), Entries: 100})
	require.NoError(t, err)
	require.Equal(t, 100, s.Count)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = list.Spool(ctx, new(memFile), bytes.NewReader(der), limits)
	require.ErrorIs(t, err, context.Canceled)
}

func TestKeysAndAlgorithms(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	l := crltest.List{Entries: []crltest.Entry{{Serial: big.NewInt(77)}}}
	for name, o := range map[string]crltest.Options{
		"ECDSA":   {},
		"RSA":     {Key: crltest.RSAKey(t, 2048)},
		"Ed25519": {Key: ed},
	} {
		ca := crltest.NewCA(t, name, o)
		der := ca.Sign(t, l)
		_, p, err := read(t, ca, der)
		require.NoError(t, err, name)
		_, _, ok := find(p, 0, big.NewInt(77))
		require.True(t, ok)
		_, _, err = read(t, crltest.NewCA(t, "other", crltest.Options{}), der)
		require.ErrorIs(t, err, list.ErrSignature)
	}
	weak := crltest.NewCA(t, "weak", crltest.Options{Key: crltest.RSAKey(t, 1024)})
	_, _, err = read(t, weak, weak.Sign(t, l))
	require.ErrorContains(t, err, "1024 bits")

	key := crltest.RSAKey(t, 2048)
	ca := crltest.NewCA(t, "PSS", crltest.Options{Key: key})
	for _, alg := range []x509.SignatureAlgorithm{x509.SHA256WithRSAPSS, x509.SHA512WithRSAPSS, x509.SHA384WithRSA} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: crltest.Now, NextUpdate: crltest.Now.Add(time.Hour), SignatureAlgorithm: alg,
		}, ca.Cert, key)
		require.NoError(t, err)
		_, _, err = read(t, ca, der)
		require.NoError(t, err, alg)
	}
}

func TestLongListEqualsItsEntries(t *testing.T) {
	const n = 30_000
	ca := crltest.NewCA(t, "CA", crltest.Options{})
	var buf bytes.Buffer
	ca.Stream(t, &buf, 3, crltest.UpTo(n), n)
	theirs, err := x509.ParseRevocationList(buf.Bytes())
	require.NoError(t, err)
	require.NoError(t, theirs.CheckSignatureFrom(ca.Cert))
	path := filepath.Join(t.TempDir(), "list")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	s, err := list.Spool(context.Background(), f, &buf, limits)
	require.NoError(t, err)
	again, err := list.Reread(context.Background(), f, s.Size, limits)
	require.NoError(t, err)
	require.Equal(t, s.ID, again.ID)
	v, err := again.Verify(ca.Cert.PublicKey)
	require.NoError(t, err)
	p, err := v.Entries(context.Background())
	require.NoError(t, err)
	require.Len(t, p.Classes, 1)
	require.Equal(t, n, p.Classes[0].Count)
	view := p.Classes[0].View()
	for _, e := range theirs.RevokedCertificateEntries {
		payload, ok := view.Find(e.SerialNumber.Bytes())
		require.True(t, ok)
		require.Equal(t, e.ReasonCode, int(payload[4]))
	}
}
