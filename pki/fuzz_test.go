package pki_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/verify"
)

func FuzzIngest(f *testing.F) {
	b := newBench(f)
	csr := b.csr(f, "n")
	c := b.ca.Sign(f, csr)
	f.Add(testca.PEM(c))
	f.Add(testca.PEM(b.ca.Cert, c))
	f.Add(csr)
	f.Add([]byte("-----BEGIN CERTIFICATE-----MIIB-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := b.m.Ingest(t.Context(), "n", text)
		if len(report.Checks) != 3 || report.Accepted != (err == nil) {
			t.Fatalf("%+v, %v", report, err)
		}
		var refused *verify.Failure
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if _, err := b.m.AddTrust(t.Context(), "t", text, pki.Warn); err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	b := newBench(f)
	b.csr(f, "n")
	for _, s := range []string{
		`{"name":"n","common_name":"c"}`, `{"name":"n","common_name":"c","country_name":"US","subject_alt_names":["a.example","IP:::1","URI:x://y","email:a@b"]}`,
		`{"name":"n","common_name":"c","rsa_key_size":"2048","algorithm":"RSA"}`, `{"name":"n","common_name":"\u0000"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r pki.Request
		if json.Unmarshal(data, &r) != nil {
			return
		}
		r.Name = "n" // the key that is there
		if _, err := b.m.CreateRequest(t.Context(), r); err == nil && r.CommonName == "" {
			t.Fatal("no common name")
		}
	})
}
