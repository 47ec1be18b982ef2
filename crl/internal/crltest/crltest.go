// Package crltest makes certificate authorities and revocation lists for
// tests: small ones with any defect, and long ones as a stream.
package crltest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Now is the time that the certificates and lists of this package are made for.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// CA is a certificate authority.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Options change what NewCA makes. The zero value makes a root with an ECDSA key.
type Options struct {
	Parent *CA
	Key    crypto.Signer
	// Usage replaces keyCertSign and cRLSign; NoUsage leaves the extension out.
	Usage   x509.KeyUsage
	NoUsage bool
	// NotCA makes an end entity certificate.
	NotCA bool
	// Points are the addresses of distribution points.
	Points []string
	// Extra are further extensions.
	Extra []pkix.Extension
	// Serial replaces the random serial number.
	Serial    *big.Int
	NotBefore time.Time
	NotAfter  time.Time
}

// ECKey makes an ECDSA key.
func ECKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// RSAKey makes an RSA key.
func RSAKey(tb testing.TB, bits int) crypto.Signer {
	tb.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// NewCA makes a certificate, a root when there is no parent.
func NewCA(tb testing.TB, name string, o Options) *CA {
	tb.Helper()
	if o.Key == nil {
		o.Key = ECKey(tb)
	}
	if o.Serial == nil {
		b := make([]byte, 16)
		_, _ = rand.Read(b)
		b[0] = b[0]&0x7f | 1
		o.Serial = new(big.Int).SetBytes(b)
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = Now.AddDate(-1, 0, 0)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = Now.AddDate(10, 0, 0)
	}
	tmpl := &x509.Certificate{
		SerialNumber: o.Serial, Subject: pkix.Name{CommonName: name, Organization: []string{"Test"}},
		NotBefore: o.NotBefore, NotAfter: o.NotAfter,
		BasicConstraintsValid: true, IsCA: !o.NotCA,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		CRLDistributionPoints: o.Points, ExtraExtensions: o.Extra,
	}
	if o.NotCA {
		tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	}
	if o.Usage != 0 {
		tmpl.KeyUsage = o.Usage
	}
	if o.NoUsage {
		tmpl.KeyUsage = 0
	}
	parent, signer := tmpl, o.Key
	if o.Parent != nil {
		parent, signer = o.Parent.Cert, o.Parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, o.Key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &CA{cert, o.Key}
}

// Leaf makes an end entity certificate with distribution points.
func (ca *CA) Leaf(tb testing.TB, name string, points ...string) *x509.Certificate {
	tb.Helper()
	return NewCA(tb, name, Options{Parent: ca, NotCA: true, Points: points, Key: ca.Key}).Cert
}

// Entry is one entry of a list.
type Entry struct {
	Serial *big.Int
	Time   time.Time
	// Reason is the reason code; 0 leaves the extension out.
	Reason int
	// Extensions are further extensions.
	Extensions []pkix.Extension
	// Generalized writes the date as GeneralizedTime.
	Generalized bool
}

// List says what a list holds. Zero values make a sound one.
type List struct {
	Entries []Entry
	// Number is the CRL number, 1 when zero, none when negative.
	Number               int64
	ThisUpdate           time.Time
	NextUpdate           time.Time
	NoNextUpdate         bool
	Version1             bool
	NoKeyID              bool
	Extensions           []pkix.Extension
	Issuer               []byte
	GeneralizedTime      bool
	NumberIsCritical     bool
	OuterAlgorithmDiffer bool
	BadSignature         bool
}

var (
	oidECDSA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidRSA256   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidEd25519  = asn1.ObjectIdentifier{1, 3, 101, 112}
)

func algorithm(b *cryptobyte.Builder, key crypto.Signer) crypto.Hash {
	h := crypto.SHA256
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		switch key.Public().(type) {
		case *rsa.PublicKey:
			b.AddASN1ObjectIdentifier(oidRSA256)
			b.AddASN1NULL()
		case *ecdsa.PublicKey:
			b.AddASN1ObjectIdentifier(oidECDSA256)
		default:
			b.AddASN1ObjectIdentifier(oidEd25519)
			h = 0
		}
	})
	return h
}

func addTime(b *cryptobyte.Builder, t time.Time, generalized bool) {
	if generalized {
		b.AddASN1GeneralizedTime(t.UTC())
	} else {
		b.AddASN1UTCTime(t.UTC())
	}
}

func addExtension(b *cryptobyte.Builder, e pkix.Extension) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(e.Id)
		if e.Critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(e.Value)
	})
}

func addEntry(b *cryptobyte.Builder, e Entry) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(e.Serial)
		at := e.Time
		if at.IsZero() {
			at = Now.Add(-time.Hour)
		}
		addTime(b, at, e.Generalized)
		exts := e.Extensions
		if e.Reason != 0 {
			exts = append([]pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 21}, Value: []byte{10, 1, byte(e.Reason)}}}, exts...)
		}
		if len(exts) > 0 {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, x := range exts {
					addExtension(b, x)
				}
			})
		}
	})
}

// Sign makes the list in DER.
func (ca *CA) Sign(tb testing.TB, l List) []byte {
	tb.Helper()
	if l.ThisUpdate.IsZero() {
		l.ThisUpdate = Now.Add(-time.Hour)
	}
	if l.NextUpdate.IsZero() {
		l.NextUpdate = Now.Add(7 * 24 * time.Hour)
	}
	if l.Number == 0 {
		l.Number = 1
	}
	if l.Issuer == nil {
		l.Issuer = ca.Cert.RawSubject
	}
	var hash crypto.Hash
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if !l.Version1 {
			b.AddASN1Int64(1)
		}
		hash = algorithm(b, ca.Key)
		b.AddBytes(l.Issuer)
		addTime(b, l.ThisUpdate, l.GeneralizedTime)
		if !l.NoNextUpdate {
			addTime(b, l.NextUpdate, l.GeneralizedTime)
		}
		if len(l.Entries) > 0 {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, e := range l.Entries {
					addEntry(b, e)
				}
			})
		}
		exts := l.extensions(ca)
		if len(exts) > 0 && !l.Version1 {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, x := range exts {
						addExtension(b, x)
					}
				})
			})
		}
	})
	tbs := b.BytesOrPanic()
	return seal(tb, ca, tbs, hash, l)
}

func (l List) extensions(ca *CA) []pkix.Extension {
	var exts []pkix.Extension
	if !l.NoKeyID {
		id, _ := asn1.Marshal(struct {
			ID []byte `asn1:"optional,tag:0"`
		}{ca.Cert.SubjectKeyId})
		if len(ca.Cert.SubjectKeyId) > 0 {
			exts = append(exts, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: id})
		}
	}
	if l.Number > 0 {
		exts = append(exts, Number(l.Number, l.NumberIsCritical))
	}
	return append(exts, l.Extensions...)
}

// Number makes a CRL number extension.
func Number(n int64, critical bool) pkix.Extension {
	v, _ := asn1.Marshal(n)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 20}, Critical: critical, Value: v}
}

// Delta makes a delta CRL indicator.
func Delta(base int64) pkix.Extension {
	v, _ := asn1.Marshal(base)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: v}
}

// Scope is what an issuing distribution point says.
type Scope struct {
	URI                           string
	User, CA, Attribute, Indirect bool
	Reasons                       []byte // content of the BIT STRING
	Raw                           []byte // replaces everything
	NotCritical                   bool
}

// Extension encodes the scope.
func (s Scope) Extension() pkix.Extension {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if s.URI != "" {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.URI)) })
				})
			})
		}
		flag := func(tag uint8, on bool) {
			if on {
				b.AddASN1(cbasn1.Tag(tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddUint8(0xff) })
			}
		}
		flag(1, s.User)
		flag(2, s.CA)
		if s.Reasons != nil {
			b.AddASN1(cbasn1.Tag(3).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(s.Reasons) })
		}
		flag(4, s.Indirect)
		flag(5, s.Attribute)
	})
	v := b.BytesOrPanic()
	if s.Raw != nil {
		v = s.Raw
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: !s.NotCritical, Value: v}
}

func seal(tb testing.TB, ca *CA, tbs []byte, hash crypto.Hash, l List) []byte {
	tb.Helper()
	digest := tbs
	if hash != 0 {
		h := hash.New()
		h.Write(tbs)
		digest = h.Sum(nil)
	}
	sig, err := ca.Key.Sign(rand.Reader, digest, hash)
	if err != nil {
		tb.Fatal(err)
	}
	if l.BadSignature {
		sig[len(sig)-1] ^= 1
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		if l.OuterAlgorithmDiffer {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSA384) })
		} else {
			algorithm(b, ca.Key)
		}
		b.AddASN1BitString(sig)
	})
	return b.BytesOrPanic()
}

// NewSerial makes a random positive serial number of up to 20 bytes.
func NewSerial(rng *mrand.Rand) *big.Int {
	b := make([]byte, 1+rng.IntN(20))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// Serials makes the nth serial number of a long list: 16 bytes that look random
// and depend on n and seed alone.
func Serials(seed uint64) func(n int, out *[16]byte) {
	return func(n int, out *[16]byte) {
		x := (uint64(n) + seed) * 0x9e3779b97f4a7c15
		for i := range 2 {
			x ^= x >> 30
			x *= 0xbf58476d1ce4e5b9
			x ^= x >> 27
			x *= 0x94d049bb133111eb
			x ^= x >> 31
			binary.BigEndian.PutUint64(out[8*i:], x)
			x += 0x9e3779b97f4a7c15
		}
		out[0] = out[0]&0x7f | 0x40
	}
}

// entrySize is the size of an entry that Stream writes: 16-byte serial number,
// UTCTime and a reason code.
const entrySize = 49

// Stream writes a list of n entries without holding it. Entries from to n-1
// are those of the serial numbers with the same position. It walks the entries
// twice, once to hash and once to write.
func (ca *CA) Stream(tb testing.TB, w io.Writer, number int64, positions func(yield func(n int) bool), count int) {
	tb.Helper()
	var head, tail cryptobyte.Builder
	head.AddASN1Int64(1)
	hash := algorithm(&head, ca.Key)
	head.AddBytes(ca.Cert.RawSubject)
	head.AddASN1UTCTime(Now.Add(-time.Hour).UTC())
	head.AddASN1UTCTime(Now.Add(7 * 24 * time.Hour).UTC())
	tail.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addExtension(b, Number(number, false)) })
	})
	start, end := head.BytesOrPanic(), tail.BytesOrPanic()
	list := header(0x30, count*entrySize)
	tbs := header(0x30, len(start)+len(list)+count*entrySize+len(end))
	write := func(w io.Writer) {
		_, _ = w.Write(tbs)
		_, _ = w.Write(start)
		_, _ = w.Write(list)
		entries(w, positions)
		_, _ = w.Write(end)
	}
	h := hash.New()
	write(h)
	sig, err := ca.Key.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		tb.Fatal(err)
	}
	var last cryptobyte.Builder
	algorithm(&last, ca.Key)
	last.AddASN1BitString(sig)
	trailer := last.BytesOrPanic()
	_, _ = w.Write(header(0x30, len(tbs)+len(start)+len(list)+count*entrySize+len(end)+len(trailer)))
	write(w)
	if _, err := w.Write(trailer); err != nil {
		tb.Fatal(err)
	}
}

func entries(w io.Writer, positions func(yield func(n int) bool)) {
	serial := Serials(0)
	e := []byte("\x30\x2f\x02\x10................\x17\x0d260501120000Z\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01\x01")
	buf := make([]byte, 0, 1<<20)
	var s [16]byte
	for n := range positions {
		serial(n, &s)
		copy(e[4:], s[:])
		e[len(e)-1] = byte(1 + n%5)
		if buf = append(buf, e...); len(buf)+len(e) > cap(buf) {
			_, _ = w.Write(buf)
			buf = buf[:0]
		}
	}
	_, _ = w.Write(buf)
}

// UpTo yields 0 to n-1.
func UpTo(n int) func(yield func(n int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func header(tag byte, size int) []byte {
	if size < 0x80 {
		return []byte{tag, byte(size)}
	}
	var be [8]byte
	binary.BigEndian.PutUint64(be[:], uint64(size))
	i := 0
	for be[i] == 0 {
		i++
	}
	return append([]byte{tag, 0x80 | byte(8-i)}, be[i:]...)
}
