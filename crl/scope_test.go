package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

// bring imports lists that one authority signed.
func (w *world) bring(ca *crltest.CA, lists ...crltest.List) error {
	w.t.Helper()
	for i, l := range lists {
		if err := w.m.Import(context.Background(), bytes.NewReader(ca.Sign(w.t, l)), fmt.Sprintf("import-%p-%d", ca, i)); err != nil {
			return err
		}
	}
	return nil
}

func scoped(s crltest.Scope, number int64, certs ...*x509.Certificate) crltest.List {
	l := crltest.List{Number: number, Extensions: []pkix.Extension{s.Extension()}}
	for _, c := range certs {
		l.Entries = append(l.Entries, entry(c, 1))
	}
	return l
}

const shardA, shardB = "http://pki.example/a.crl", "http://pki.example/b.crl"

func TestEachDistributionPointIsMatched(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	inA, inB, inBoth, inNone := w.ca.Leaf(t, "a", shardA), w.ca.Leaf(t, "b", shardB), w.ca.Leaf(t, "both", shardA, shardB), w.ca.Leaf(t, "none")
	require.NoError(t, w.bring(w.ca, scoped(crltest.Scope{URI: shardA}, 1)))
	require.Equal(t, crl.StatusGood, w.status(inA))
	require.Equal(t, crl.StatusUnknown, w.status(inB), "shard A clears nothing of shard B")
	require.Equal(t, crl.StatusUnknown, w.status(inNone))
	require.NoError(t, w.bring(w.ca, scoped(crltest.Scope{URI: shardB}, 1, inB, inBoth)))
	require.Equal(t, crl.StatusRevoked, w.status(inB))
	require.Equal(t, crl.StatusRevoked, w.status(inBoth), "the second point counts as well")
	require.Equal(t, crl.StatusGood, w.status(inA))
	require.Len(t, w.m.Lists(), 2)
}

func TestKindsOfCertificates(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	sub := crltest.NewCA(t, "sub", crltest.Options{Parent: w.ca}).Cert
	user := w.ca.Leaf(t, "user")
	require.NoError(t, w.bring(w.ca, scoped(crltest.Scope{User: true}, 1)))
	require.Equal(t, crl.StatusGood, w.status(user))
	require.Equal(t, crl.StatusUnknown, w.status(sub))
	require.NoError(t, w.bring(w.ca, scoped(crltest.Scope{CA: true}, 1, sub)))
	require.Equal(t, crl.StatusRevoked, w.status(sub))
	require.ErrorContains(t, w.bring(w.ca, scoped(crltest.Scope{Attribute: true}, 1)), "attribute certificates")
	require.ErrorContains(t, w.bring(w.ca, scoped(crltest.Scope{User: true, CA: true}, 1)), "excludes every kind")
}

func TestReasonsMustAddUp(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	cert, bad := w.ca.Leaf(t, "x"), w.ca.Leaf(t, "bad")
	keys := crltest.Scope{Reasons: []byte{5, 0x60}}       // keyCompromise, cACompromise
	rest := crltest.Scope{Reasons: []byte{7, 0x1f, 0x80}} // all others
	require.NoError(t, w.bring(w.ca, scoped(keys, 1, bad)))
	require.Equal(t, crl.StatusRevoked, w.status(bad))
	r := w.m.Check(cert, w.ca.Cert)
	require.Equal(t, crl.StatusUnknown, r.Status)
	require.Contains(t, r.Why, "all reasons")
	require.NoError(t, w.bring(w.ca, scoped(rest, 1)))
	require.Equal(t, crl.StatusGood, w.status(cert))
}

func TestDeltaLists(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	a, b, c := w.ca.Leaf(t, "a"), w.ca.Leaf(t, "b"), w.ca.Leaf(t, "c")
	delta := func(number, base int64, entries ...crltest.Entry) crltest.List {
		return crltest.List{Number: number, Entries: entries, Extensions: []pkix.Extension{crltest.Delta(base)}}
	}
	require.NoError(t, w.bring(w.ca, delta(6, 5, entry(b, 1))))
	require.Equal(t, crl.StatusUnknown, w.status(a), "a delta list alone clears nothing")
	require.Equal(t, crl.StatusUnknown, w.status(b), "and has no base to go with")
	require.NoError(t, w.bring(w.ca, crltest.List{Number: 4, Entries: []crltest.Entry{entry(a, 6)}}))
	require.Equal(t, crl.StatusGood, w.status(b), "the base is too old for the delta list")
	require.NoError(t, w.bring(w.ca, crltest.List{Number: 5, Entries: []crltest.Entry{entry(a, 6)}}))
	require.Equal(t, crl.StatusRevoked, w.status(b))
	require.Equal(t, crl.StatusOnHold, w.status(a))
	require.NoError(t, w.bring(w.ca, delta(7, 5, entry(b, 1), entry(a, 8))))
	require.Equal(t, crl.StatusGood, w.status(a), "taken out of the list")
	require.Equal(t, crl.StatusGood, w.status(c))
	require.NoError(t, w.bring(w.ca, crltest.List{Number: 7, Entries: []crltest.Entry{entry(a, 6), entry(b, 1)}}))
	require.Equal(t, crl.StatusOnHold, w.status(a), "the delta list is no newer than the complete one")
	require.NoError(t, w.bring(w.ca, delta(8, 7, entry(c, 4), entry(b, 8))))
	require.Equal(t, crl.StatusRevoked, w.status(c))
	require.Equal(t, crl.StatusGood, w.status(b))
}

func directoryName(raw []byte) []byte {
	return append([]byte{0xa4, byte(len(raw))}, raw...)
}

func TestIndirectLists(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	signer := crltest.NewCA(t, "list signer", crltest.Options{Parent: w.ca, NotCA: true, Usage: x509.KeyUsageCRLSign})
	other := crltest.NewCA(t, "other", crltest.Options{})
	w.cfg.Intermediates = []*x509.Certificate{signer.Cert}
	w.cfg.Issuers = append(w.cfg.Issuers, other.Cert)
	w.start()
	names := directoryName(signer.Cert.RawSubject)
	issuers := append([]byte{0xa2, byte(len(names))}, names...)
	point := append([]byte{0x30, byte(len(issuers))}, issuers...)
	value := append([]byte{0x30, byte(len(point))}, point...)
	leaf := func(ca *crltest.CA, name string) *x509.Certificate {
		return crltest.NewCA(t, name, crltest.Options{Parent: ca, NotCA: true, Key: ca.Key,
			Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: value}}}).Cert
	}
	bad, good, foreign := leaf(w.ca, "bad"), leaf(w.ca, "good"), leaf(other, "foreign")
	require.Equal(t, crl.StatusUnknown, w.status(bad))
	caName := directoryName(w.ca.Cert.RawSubject)
	certIssuer := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: append([]byte{0x30, byte(len(caName))}, caName...)}
	l := crltest.List{
		Extensions: []pkix.Extension{crltest.Scope{Indirect: true}.Extension()},
		Entries: []crltest.Entry{
			{Serial: good.SerialNumber}, // of the signer's own
			{Serial: big.NewInt(5), Extensions: []pkix.Extension{certIssuer}},
			{Serial: bad.SerialNumber, Reason: 1}, // the issuer carries over
		},
	}
	require.NoError(t, w.bring(signer, l))
	require.Equal(t, crl.StatusRevoked, w.status(bad))
	require.Equal(t, crl.StatusGood, w.status(good), "the serial number is listed for another issuer")
	r := w.m.Check(foreign, other.Cert)
	require.Equal(t, crl.StatusUnknown, r.Status)
	require.Contains(t, r.Why, "different trust anchors")
	l.Extensions = nil
	l.Number = 2
	require.ErrorContains(t, w.bring(signer, l), "not indirect")

	// A revoked signer speaks for nobody.
	require.NoError(t, w.bring(w.ca, crltest.List{Entries: []crltest.Entry{entry(signer.Cert, 1)}}))
	r = w.m.Check(bad, w.ca.Cert)
	require.Equal(t, crl.StatusGood, r.Status, "the direct list of the issuer is good")
	_, steps := w.m.Explain(bad, w.ca.Cert)
	require.Contains(t, fmt.Sprint(steps), "signer is revoked")
}

func TestRevokedAuthorityAbove(t *testing.T) {
	w := newWorld(t)
	sub := crltest.NewCA(t, "sub", crltest.Options{Parent: w.ca})
	w.cfg.Intermediates = []*x509.Certificate{sub.Cert}
	w.cfg.URLs = nil
	w.start()
	leaf := sub.Leaf(t, "leaf")
	require.NoError(t, w.bring(sub, crltest.List{}))
	require.Equal(t, crl.StatusGood, w.m.Check(leaf, sub.Cert).Status)
	require.NoError(t, w.bring(w.ca, crltest.List{Entries: []crltest.Entry{entry(sub.Cert, 2)}}))
	r := w.m.Check(leaf, sub.Cert)
	require.Equal(t, crl.StatusRevoked, r.Status)
	require.Contains(t, r.Why, "issuing authority")
}

func TestExpiredCertificates(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	gone := crltest.NewCA(t, "gone", crltest.Options{Parent: w.ca, NotCA: true, NotAfter: crltest.Now.AddDate(0, -6, 0)}).Cert
	require.NoError(t, w.bring(w.ca, crltest.List{}))
	r := w.m.Check(gone, w.ca.Cert)
	require.Equal(t, crl.StatusUnknown, r.Status)
	require.Contains(t, r.Why, "expired before")
	since := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 60}, Value: []byte("\x18\x0f20200101000000Z")}
	require.NoError(t, w.bring(w.ca, crltest.List{Number: 2, Extensions: []pkix.Extension{since}}))
	require.Equal(t, crl.StatusGood, w.status(gone))
}

func TestNamesCompareWithoutRegardToSpelling(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	w.start()
	bad := w.ca.Leaf(t, "bad")
	// The same name with other string types, case and spaces.
	rdn := func(oid asn1.ObjectIdentifier, text string) pkix.RelativeDistinguishedNameSET {
		return pkix.RelativeDistinguishedNameSET{{Type: oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)}}}
	}
	issuer, err := asn1.Marshal(pkix.RDNSequence{rdn(asn1.ObjectIdentifier{2, 5, 4, 10}, "tEST"), rdn(asn1.ObjectIdentifier{2, 5, 4, 3}, "  ca ")})
	require.NoError(t, err)
	require.NoError(t, w.bring(w.ca, crltest.List{Issuer: issuer, Entries: []crltest.Entry{entry(bad, 1)}}))
	require.Equal(t, crl.StatusRevoked, w.status(bad))
}

// TestLimbo makes the cases of x509-limbo about revocation lists anew.
func TestLimbo(t *testing.T) {
	revoked := func(leaf *x509.Certificate) crltest.List {
		return crltest.List{Entries: []crltest.Entry{entry(leaf, 0)}}
	}
	for name, c := range map[string]struct {
		usage  x509.KeyUsage
		none   bool
		list   func(leaf *x509.Certificate) crltest.List
		other  bool // the list is of another authority
		status crl.Status
		refuse string
	}{
		"revoked certificate": {list: revoked, status: crl.StatusRevoked},
		"number is missing":   {list: func(*x509.Certificate) crltest.List { return crltest.List{Number: -1} }, status: crl.StatusUnknown, refuse: "no CRL number"},
		"number is critical":  {list: func(*x509.Certificate) crltest.List { return crltest.List{NumberIsCritical: true} }, status: crl.StatusUnknown, refuse: "critical"},
		"certificate is not on the list": {list: func(*x509.Certificate) crltest.List {
			return crltest.List{Entries: []crltest.Entry{{Serial: big.NewInt(4711)}}}
		}, status: crl.StatusGood},
		"same serial number, other issuer":    {list: revoked, other: true, status: crl.StatusGood},
		"issuer without cRLSign":              {usage: x509.KeyUsageCertSign, list: revoked, status: crl.StatusUnknown, refuse: "does not allow"},
		"issuer without key usage":            {none: true, list: revoked, status: crl.StatusRevoked},
		"issuer with cRLSign and keyCertSign": {usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, list: revoked, status: crl.StatusRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.URLs = nil
			ca := crltest.NewCA(t, "limbo", crltest.Options{Usage: c.usage, NoUsage: c.none})
			other := crltest.NewCA(t, "limbo two", crltest.Options{})
			w.cfg.Issuers = []*x509.Certificate{ca.Cert, other.Cert}
			w.start()
			leaf := ca.Leaf(t, "leaf")
			signer := ca
			if c.other {
				signer = other
				require.NoError(t, w.bring(ca, crltest.List{}))
			}
			err := w.bring(signer, c.list(leaf))
			if c.refuse == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.refuse)
			}
			require.Equal(t, c.status, w.m.Check(leaf, ca.Cert).Status)
		})
	}
}

func TestKeyRollover(t *testing.T) {
	w := newWorld(t)
	w.cfg.URLs = nil
	next := crltest.NewCA(t, "CA", crltest.Options{}) // the same name with a new key
	w.cfg.Issuers = append(w.cfg.Issuers, next.Cert)
	w.start()
	bad := next.Leaf(t, "bad")
	require.NoError(t, w.bring(w.ca, crltest.List{Number: 90}))
	require.NoError(t, w.bring(next, crltest.List{Number: 1, Entries: []crltest.Entry{entry(bad, 1)}}), "each key has its own numbers")
	require.Equal(t, crl.StatusRevoked, w.m.Check(bad, next.Cert).Status)
	require.Len(t, w.m.Lists(), 2)
	w.pass(time.Hour)
}
