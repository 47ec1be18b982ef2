package list_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/index"
	"github.com/mooringlib/mooring/crl/internal/list"
)

func seeds(tb testing.TB) (out [][]byte) {
	tb.Helper()
	ca := crltest.NewCA(tb, "CA", crltest.Options{})
	invalid := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: []byte("\x18\x0f20200101000000Z")}
	for _, l := range []crltest.List{
		{},
		{Entries: []crltest.Entry{{Serial: big.NewInt(1)}, {Serial: big.NewInt(200), Reason: 1}}},
		{Entries: []crltest.Entry{{Serial: big.NewInt(-7)}, {Serial: big.NewInt(9), Reason: 6, Extensions: []pkix.Extension{invalid}}}, GeneralizedTime: true},
		{Version1: true, Entries: []crltest.Entry{{Serial: big.NewInt(1), Generalized: true}}},
		{NoNextUpdate: true, NoKeyID: true, Extensions: []pkix.Extension{crltest.Delta(3)}},
		{Extensions: []pkix.Extension{crltest.Scope{URI: "http://a/b", User: true, Reasons: []byte{1, 6}}.Extension()}},
		{Extensions: []pkix.Extension{crltest.Scope{Indirect: true}.Extension()}, Entries: []crltest.Entry{{Serial: big.NewInt(3), Extensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: append([]byte{0x30, byte(len(ca.Cert.RawSubject) + 2), 0xa4, byte(len(ca.Cert.RawSubject))}, ca.Cert.RawSubject...)}}}}},
	} {
		out = append(out, ca.Sign(tb, l))
	}
	return out
}

// FuzzAgainstX509 reads the same bytes with crypto/x509. Where both accept them
// they must have read the same.
func FuzzAgainstX509(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lim := list.Limits{Bytes: 1 << 20, Entries: 1 << 12, AllowUnnumbered: true}
		sp, err := list.Spool(context.Background(), new(memFile), bytes.NewReader(data), lim)
		if err != nil || data[0] != 0x30 {
			return
		}
		again, err := list.Reread(context.Background(), bytes.NewReader(data), int64(len(data)), lim)
		if err != nil || again.ID != sp.ID {
			t.Fatalf("reading again: %v", err)
		}
		ours, err := sp.Unverified().Entries(context.Background())
		if err != nil {
			return
		}
		theirs, err := x509.ParseRevocationList(data)
		if err != nil {
			return
		}
		if !bytes.Equal(theirs.RawIssuer, sp.Issuer) || !theirs.ThisUpdate.Equal(sp.ThisUpdate) || !theirs.NextUpdate.Equal(sp.NextUpdate) {
			t.Fatalf("header: %v %v, %v %v", theirs.ThisUpdate, sp.ThisUpdate, theirs.NextUpdate, sp.NextUpdate)
		}
		if (theirs.Number == nil) != (sp.Number == nil) || theirs.Number != nil && theirs.Number.Cmp(sp.Number) != 0 {
			t.Fatalf("number: %v, %v", theirs.Number, sp.Number)
		}
		if !bytes.Equal(theirs.AuthorityKeyId, sp.KeyID) {
			t.Fatalf("key: %x, %x", theirs.AuthorityKeyId, sp.KeyID)
		}
		if len(theirs.RevokedCertificateEntries) != sp.Count {
			t.Fatalf("entries: %d, %d", len(theirs.RevokedCertificateEntries), sp.Count)
		}
		compareEntries(t, theirs, ours, sp.Scope.Indirect)
	})
}

func compareEntries(t *testing.T, theirs *x509.RevocationList, ours *list.Parsed, indirect bool) {
	t.Helper()
	seen := make(map[string]int)
	for _, e := range theirs.RevokedCertificateEntries {
		seen[e.SerialNumber.String()]++
	}
	for _, e := range theirs.RevokedCertificateEntries {
		var payload []byte
		mag := e.SerialNumber.Bytes()
		for i := range ours.Classes {
			c := &ours.Classes[i]
			if c.Kind != index.Main || c.Negative != (e.SerialNumber.Sign() < 0) || c.Width != index.WidthFor(len(mag)) {
				continue
			}
			if p, ok := c.View().Find(mag); ok {
				payload = p
			}
		}
		if payload == nil {
			t.Fatalf("serial number %v is missing", e.SerialNumber)
		}
		if indirect || seen[e.SerialNumber.String()] > 1 {
			continue
		}
		if int(payload[4]&index.ReasonMask) != e.ReasonCode {
			t.Fatalf("reason of %v: %d, %d", e.SerialNumber, e.ReasonCode, payload[4])
		}
		secs := int64(payload[0])<<24 | int64(payload[1])<<16 | int64(payload[2])<<8 | int64(payload[3])
		if payload[4]&index.FlagExtra == 0 && !time.Unix(secs, 0).Equal(e.RevocationTime) {
			t.Fatalf("date of %v: %v, %v", e.SerialNumber, e.RevocationTime, time.Unix(secs, 0))
		}
	}
}

// FuzzSpool feeds anything, in both encodings.
func FuzzSpool(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Add([]byte("-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n"))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := new(memFile)
		s, err := list.Spool(context.Background(), file, bytes.NewReader(data), list.Limits{Bytes: 1 << 16, Entries: 100})
		if err == nil && (s.Size != int64(file.Len()) || s.Count > 100 || s.Size > 1<<16) {
			t.Fatalf("%d bytes, %d entries", s.Size, s.Count)
		}
	})
}
