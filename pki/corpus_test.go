package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/pkitest"
	"github.com/mooringlib/mooring/pki/verify"
)

// tbs is a certificate before it is signed, open to every change.
type tbs struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Extensions []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

// rework changes a certificate in ways that crypto/x509 does not write, and signs
// it again.
func rework(t testing.TB, der []byte, key crypto.Signer, edit func(c *tbs)) []byte {
	t.Helper()
	var outer struct {
		TBS, Alg asn1.RawValue
		Sig      asn1.BitString
	}
	_, err := asn1.Unmarshal(der, &outer)
	require.NoError(t, err)
	var c tbs
	_, err = asn1.Unmarshal(outer.TBS.FullBytes, &c)
	require.NoError(t, err)
	edit(&c)
	raw, err := asn1.Marshal(c)
	require.NoError(t, err)
	digest := sha256.Sum256(raw)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	out, err := asn1.Marshal(struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}{asn1.RawValue{FullBytes: raw}, c.Algorithm, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	require.NoError(t, err)
	return out
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func extra(critical bool, value []byte, oid ...int) testca.Edit {
	return func(t *x509.Certificate) {
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
	}
}

// lists is a revocation checker with fixed answers by serial number.
type lists struct {
	revoked map[string]string
	unknown map[string]error
}

func (l *lists) CheckRevocation(_ context.Context, cert, _ *x509.Certificate) (bool, string, time.Time, error) {
	s := cert.SerialNumber.String()
	if reason, ok := l.revoked[s]; ok {
		return true, reason, start.Add(-time.Hour), nil
	}
	return false, "", time.Time{}, l.unknown[s]
}

// specimen is what a case of the corpus is made of.
type specimen struct {
	t     *testing.T
	b     *bench
	key   *ecdsa.PrivateKey // the stored key of "n"
	lists *lists
	sub   *testca.CA // below the root
}

func newSpecimen(t *testing.T) *specimen {
	s := &specimen{t: t, key: testca.ECKey(t), lists: &lists{revoked: map[string]string{}, unknown: map[string]error{}}}
	s.b = newBench(t, func(c *pki.Config) { c.Revocation = s.lists })
	s.sub = s.b.ca.Intermediate(t, "sub")
	s.store(s.key)
	return s
}

// store puts a key in place as if by hand.
func (s *specimen) store(key any) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.b.dir, "n.key"), []byte(block("PRIVATE KEY", der)), 0o600))
}

func (s *specimen) leaf(edits ...testca.Edit) *x509.Certificate {
	return s.sub.Leaf(s.t, "router", s.key.Public(), edits...)
}

// text is a right certificate with its chain, with edits to the leaf.
func (s *specimen) text(edits ...testca.Edit) string {
	return string(testca.PEM(s.leaf(edits...), s.sub.Cert))
}

// under is a right leaf below an authority that is not.
func (s *specimen) under(edits ...testca.Edit) string {
	sub := s.b.ca.Intermediate(s.t, "faulty", edits...)
	return string(testca.PEM(sub.Leaf(s.t, "router", s.key.Public()), sub.Cert))
}

func (s *specimen) reworked(edit func(c *tbs)) string {
	return block("CERTIFICATE", rework(s.t, s.leaf().Raw, s.sub.Key, edit)) + string(testca.PEM(s.sub.Cert))
}

// critical sets the critical bit of an extension that must not have it.
func (s *specimen) critical(oid string) string {
	return s.reworked(func(c *tbs) {
		for i := range c.Extensions {
			if c.Extensions[i].Id.String() == oid {
				c.Extensions[i].Critical = true
			}
		}
	})
}

func (s *specimen) secrets() map[string]string {
	t := s.t
	pkcs8, err := x509.MarshalPKCS8PrivateKey(s.key)
	require.NoError(t, err)
	sec1, err := x509.MarshalECPrivateKey(s.key)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey)
	rsa8, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	require.NoError(t, err)
	pbes2, err := asn1.Marshal(struct {
		Alg  pkix.AlgorithmIdentifier
		Data []byte
	}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, Parameters: asn1.NullRawValue}, bytes.Repeat([]byte{7}, 64)})
	require.NoError(t, err)
	pfx, err := asn1.Marshal(struct {
		Version int
		Auth    pkix.AlgorithmIdentifier
	}{3, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}, Parameters: asn1.NullRawValue}})
	require.NoError(t, err)
	tss, err := os.ReadFile(filepath.Join("..", "internal", "tpmkey", "testdata", "provider-ec-owner.pem"))
	require.NoError(t, err)
	tssDER, _ := pem.Decode(tss)
	dsaKey, err := asn1.Marshal([]*big.Int{big.NewInt(0), rsaKey.N, big.NewInt(11), big.NewInt(12), big.NewInt(13), big.NewInt(14)})
	require.NoError(t, err)
	b64 := base64.StdEncoding.EncodeToString
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: bytes.Repeat([]byte{9}, 64)}))
	good := s.text()
	hidden := s.text(extra(false, append([]byte{4, byte(len(sec1))}, sec1...), 1, 2, 3, 4))
	require.Less(t, len(sec1), 128)
	return map[string]string{
		"PKCS #8":                          good + block("PRIVATE KEY", pkcs8),
		"PKCS #8 in front":                 block("PRIVATE KEY", pkcs8) + good,
		"PKCS #1":                          good + block("RSA PRIVATE KEY", pkcs1),
		"SEC 1":                            good + block("EC PRIVATE KEY", sec1),
		"SEC 1 with parameters":            good + block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}) + block("EC PRIVATE KEY", sec1),
		"encrypted PKCS #8":                good + block("ENCRYPTED PRIVATE KEY", pbes2),
		"encrypted the old way":            good + legacy,
		"DSA":                              good + block("DSA PRIVATE KEY", dsaKey),
		"TSS2":                             good + string(tss),
		"TSS2 as bare base64":              good + b64(tssDER.Bytes),
		"OpenSSH":                          good + block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")),
		"OpenSSH as bare base64":           good + b64([]byte("openssh-key-v1\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")),
		"PuTTY":                            good + "PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 1\nAAAA\n",
		"OpenPGP":                          good + block("PGP PRIVATE KEY BLOCK", []byte{1}),
		"JSON web key":                     good + `{"kty": "EC", "crv": "P-256", "d" : "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`,
		"bare base64":                      good + b64(pkcs8),
		"bare base64 in lines":             good + "note\n" + wrap64(b64(rsa8)),
		"bare base64 behind a word":        good + "key" + b64(pkcs8),
		"base64 for URLs":                  good + base64.RawURLEncoding.EncodeToString(pkcs1),
		"encrypted as bare base64":         good + b64(pbes2),
		"PKCS #1 as bare base64":           good + b64(pkcs1),
		"DSA as bare base64":               good + b64(dsaKey),
		"PKCS #12 as bare base64":          good + b64(append(pfx, bytes.Repeat([]byte{0}, 40)...)),
		"hex":                              good + hex.EncodeToString(sec1),
		"hex with colons":                  good + colonHex(sec1),
		"DER":                              good + string(pkcs8),
		"DER in front":                     string(sec1) + good,
		"no line breaks":                   strings.ReplaceAll(good+block("PRIVATE KEY", pkcs8), "\n", ""),
		"escaped line breaks":              good + strings.ReplaceAll(block("PRIVATE KEY", pkcs8), "\n", `\n`),
		"lower case":                       good + strings.ToLower("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"),
		"cut off":                          good + block("PRIVATE KEY", pkcs8)[:60],
		"under the label of a certificate": good + block("CERTIFICATE", pkcs8),
		"under another label":              good + block("TRUSTED DATA", sec1),
		"PEM in base64":                    good + b64([]byte(block("PRIVATE KEY", pkcs8))),
		"DER in base64 in base64":          good + b64([]byte(b64(pkcs8))),
		"in an extension":                  hidden,
		"in a comment":                     "# old: " + b64(sec1) + "\n" + good,
		"printed":                          good + "privateExponent:\n    00:11:22\n",
	}
}

func wrap64(s string) string {
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	return b.String() + s + "\n"
}

func colonHex(b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%02x", c)
	}
	return strings.Join(parts, ":")
}

// TestCorpusPrivateKeys hides a private key in every way that we know.
func TestCorpusPrivateKeys(t *testing.T) {
	t.Parallel()
	s := newSpecimen(t)
	cases := s.secrets()
	require.GreaterOrEqual(t, len(cases), 35)
	for name, text := range cases {
		report, err := s.b.m.Ingest(t.Context(), "n", []byte(text))
		f := failure(t, err)
		require.True(t, f.Has(verify.PrivateKey), "%s: %v", name, err)
		require.Equal(t, "failed", report.Checks[0].Result, name)
		require.Len(t, report.Checks, 3, name)
		_, err = s.b.m.AddTrust(t.Context(), "x", []byte(text), pki.Warn)
		require.True(t, failure(t, err).Has(verify.PrivateKey), "bundle: %s: %v", name, err)
	}
	_, cert := s.b.files(t, "n")
	require.Empty(t, cert)
	// And none where there is none.
	_, err := s.b.m.Ingest(t.Context(), "n", []byte(s.text()))
	require.NoError(t, err)
}

// nameConstraint encodes permitted (0) or excluded (1) subtrees of one name.
func nameConstraint(which int, tag byte, value []byte) []byte {
	name := append([]byte{tag, byte(len(value))}, value...)
	subtree := append([]byte{0x30, byte(len(name))}, name...)
	list := append([]byte{0xa0 | byte(which), byte(len(subtree))}, subtree...)
	return append([]byte{0x30, byte(len(list))}, list...)
}

func TestCorpusCertificates(t *testing.T) {
	t.Parallel()
	deep := bytes.Repeat([]byte{0x30, 0x80}, 2000)
	cases := map[string]struct {
		make func(s *specimen) string
		want verify.Class
	}{
		// What does not parse.
		"empty":           {func(*specimen) string { return "" }, verify.Malformed},
		"no PEM":          {func(*specimen) string { return "hello" }, verify.Malformed},
		"request":         {func(s *specimen) string { return string(s.b.csr(s.t, "other")) }, verify.Malformed},
		"public key":      {func(s *specimen) string { return s.text() + block("PUBLIC KEY", []byte{0x30, 0}) }, verify.Malformed},
		"revocation list": {func(s *specimen) string { return s.text() + block("X509 CRL", []byte{0x30, 0}) }, verify.Malformed},
		"not base64":      {func(s *specimen) string { return strings.Replace(s.text(), "MII", "M!I", 1) }, verify.Malformed},
		"no end":          {func(s *specimen) string { return s.text()[:300] }, verify.Malformed},
		"no content":      {func(*specimen) string { return "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" }, verify.Malformed},
		"cut DER":         {func(s *specimen) string { c := s.leaf().Raw; return block("CERTIFICATE", c[:len(c)-7]) }, verify.Malformed},
		"bytes after DER": {func(s *specimen) string { return block("CERTIFICATE", append(bytes.Clone(s.leaf().Raw), 0)) }, verify.Malformed},
		"random DER":      {func(*specimen) string { return block("CERTIFICATE", bytes.Repeat([]byte{0x30, 0x03, 1}, 50)) }, verify.Malformed},
		"nested DER":      {func(*specimen) string { return block("CERTIFICATE", deep) }, verify.Malformed},
		"nested PEM":      {func(s *specimen) string { return "-----BEGIN CERTIFICATE-----\n" + s.text() }, verify.Malformed},
		"huge":            {func(s *specimen) string { return s.text() + strings.Repeat("\n", 300<<10) }, verify.TooLarge},
		"many":            {func(s *specimen) string { return strings.Repeat(s.text(), 10) }, verify.TooLarge},
		"twice":           {func(s *specimen) string { x := string(testca.PEM(s.leaf())); return x + x }, verify.Malformed},
		"two leaves":      {func(s *specimen) string { return string(testca.PEM(s.leaf(), s.leaf())) }, verify.Role},
		"negative serial": {func(s *specimen) string { return s.reworked(func(c *tbs) { c.Serial = big.NewInt(-5) }) }, verify.Malformed},
		"two same extensions": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Extensions = append(c.Extensions, c.Extensions[0]) })
		}, verify.Malformed},

		// The leaf.
		"wrong key": {func(s *specimen) string {
			return string(testca.PEM(s.sub.Leaf(s.t, "router", testca.ECKey(s.t).Public()), s.sub.Cert))
		}, verify.KeyMismatch},
		"only the authority": {func(s *specimen) string { return string(testca.PEM(s.sub.Cert)) }, verify.KeyMismatch},
		"not yet valid": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.NotBefore = start.Add(time.Second) })
		}, verify.NotYetValid},
		"expired": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.NotAfter = start.Add(-time.Second) })
		}, verify.Expired},
		"ends first": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.NotBefore, t.NotAfter = start.Add(time.Hour), start.Add(-time.Hour) })
		}, verify.Expired},
		"authority as leaf": {func(s *specimen) string { return s.text(func(t *x509.Certificate) { t.IsCA = true }) }, verify.Role},
		"no digitalSignature": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageKeyEncipherment })
		}, verify.KeyUsage},
		"keyCertSign in a leaf": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.KeyUsage |= x509.KeyUsageCertSign })
		}, verify.KeyUsage},
		"for code signing": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
		}, verify.ExtendedKeyUsage},
		"for an unknown use": {func(s *specimen) string {
			return s.text(func(t *x509.Certificate) {
				t.ExtKeyUsage, t.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
			})
		}, verify.ExtendedKeyUsage},
		"unknown critical extension":               {func(s *specimen) string { return s.text(extra(true, []byte{5, 0}, 1, 2, 3, 4)) }, verify.CriticalExtension},
		"critical key identifier of the authority": {func(s *specimen) string { return s.critical("2.5.29.35") }, verify.Malformed},
		"critical key identifier":                  {func(s *specimen) string { return s.critical("2.5.29.14") }, verify.Malformed},
		"name constraints in a leaf": {func(s *specimen) string {
			return s.text(extra(true, nameConstraint(0, 0x82, []byte("router.example")), 2, 5, 29, 30))
		}, verify.Extension},
		"serial zero": {func(s *specimen) string { return s.reworked(func(c *tbs) { c.Serial = big.NewInt(0) }) }, verify.Serial},
		"serial too long": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Serial = new(big.Int).Lsh(big.NewInt(1), 165) })
		}, verify.Serial},
		"no subject, name not critical": {func(s *specimen) string {
			return s.reworked(func(c *tbs) {
				c.Subject = asn1.RawValue{FullBytes: []byte{0x30, 0}}
				for i := range c.Extensions {
					if c.Extensions[i].Id.String() == "2.5.29.17" {
						c.Extensions[i].Critical = false
					}
				}
			})
		}, verify.Name},
		"empty issuer": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Issuer = asn1.RawValue{FullBytes: []byte{0x30, 0}} })
		}, verify.Name},
		"RSA 1024": {func(s *specimen) string { return s.otherKey(rsaKey(s.t, 1024)) }, verify.KeySize},
		"P-224": {func(s *specimen) string {
			k, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			require.NoError(s.t, err)
			return s.otherKey(k)
		}, verify.KeySize},
		"Ed25519 key": {func(s *specimen) string {
			pub, _, err := ed25519.GenerateKey(rand.Reader)
			require.NoError(s.t, err)
			return string(testca.PEM(s.sub.Leaf(s.t, "router", pub), s.sub.Cert))
		}, verify.KeyAlgorithm},
		"DSA key": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Key = asn1.RawValue{FullBytes: dsaKey(s.t)} })
		}, verify.KeyAlgorithm},

		// Signatures.
		"changed": {func(s *specimen) string {
			c := bytes.Clone(s.leaf().Raw)
			c[len(c)-3] ^= 1
			return block("CERTIFICATE", c) + string(testca.PEM(s.sub.Cert))
		}, verify.Signature},
		"signed by another": {func(s *specimen) string {
			return block("CERTIFICATE", rework(s.t, s.leaf().Raw, testca.ECKey(s.t), func(*tbs) {})) + string(testca.PEM(s.sub.Cert))
		}, verify.Signature},
		"SHA-1": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1} })
		}, verify.SignatureAlgorithm},
		"MD5": {func(s *specimen) string {
			return s.reworked(func(c *tbs) {
				c.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, Parameters: asn1.NullRawValue}
			})
		}, verify.SignatureAlgorithm},
		"SHA-224": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1} })
		}, verify.SignatureAlgorithm},
		"Ed25519 signature": {func(s *specimen) string { return s.signedWith(edKey(s.t)) }, verify.SignatureAlgorithm},
		"DSA signature": {func(s *specimen) string {
			return s.reworked(func(c *tbs) { c.Algorithm.Algorithm = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 2} })
		}, verify.SignatureAlgorithm},

		// The path.
		"other root": {func(s *specimen) string {
			ca := testca.Root(s.t, "other", start)
			return string(testca.PEM(ca.Leaf(s.t, "router", s.key.Public()), ca.Cert))
		}, verify.Untrusted},
		"root of the same name": {func(s *specimen) string {
			return string(testca.PEM(testca.Root(s.t, "root", start).Leaf(s.t, "router", s.key.Public())))
		}, verify.Untrusted},
		"self-signed": {func(s *specimen) string {
			self := &testca.CA{Cert: &x509.Certificate{Subject: pkix.Name{CommonName: "router"}}, Key: s.key, Now: start}
			return string(testca.PEM(self.Leaf(s.t, "router", s.key.Public())))
		}, verify.Untrusted},
		"authority missing": {func(s *specimen) string { return string(testca.PEM(s.leaf())) }, verify.Untrusted},
		"authority expired": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) { t.NotAfter = start.Add(-time.Hour) })
		}, verify.Expired},
		"authority not yet valid": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) { t.NotBefore = start.Add(time.Hour) })
		}, verify.NotYetValid},
		"authority CA:FALSE": {func(s *specimen) string { return s.under(func(t *x509.Certificate) { t.IsCA = false }) }, verify.BasicConstraints},
		"authority without constraints": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) { t.BasicConstraintsValid = false })
		}, verify.BasicConstraints},
		"constraints not critical": {func(s *specimen) string { return s.under(extra(false, []byte{0x30, 3, 1, 1, 0xff}, 2, 5, 29, 19)) }, verify.BasicConstraints},
		"authority without keyCertSign": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCRLSign })
		}, verify.KeyUsage},
		"authority without keyUsage":                {func(s *specimen) string { return s.under(func(t *x509.Certificate) { t.KeyUsage = 0 }) }, verify.KeyUsage},
		"authority with unknown critical extension": {func(s *specimen) string { return s.under(extra(true, []byte{5, 0}, 1, 2, 3, 4)) }, verify.CriticalExtension},
		"authority for code signing": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
		}, verify.ExtendedKeyUsage},
		"path length": {func(s *specimen) string {
			one := s.b.ca.Intermediate(s.t, "one", func(t *x509.Certificate) { t.MaxPathLen, t.MaxPathLenZero = 0, true })
			two := one.Intermediate(s.t, "two")
			return string(testca.PEM(two.Leaf(s.t, "router", s.key.Public()), two.Cert, one.Cert))
		}, verify.PathLength},
		"key identifiers differ": {func(s *specimen) string {
			return s.text(extra(false, []byte{0x30, 6, 0x80, 4, 9, 9, 9, 9}, 2, 5, 29, 35))
		}, verify.KeyIdentifier},
		"authority of version 1": {func(s *specimen) string {
			sub := s.b.ca.Intermediate(s.t, "old")
			der := rework(s.t, sub.Cert.Raw, s.b.ca.Key, func(c *tbs) { c.Version, c.Extensions = 0, nil })
			return string(testca.PEM(sub.Leaf(s.t, "router", s.key.Public()))) + block("CERTIFICATE", der)
		}, verify.BasicConstraints},
		"DNS name not permitted": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) {
				t.PermittedDNSDomainsCritical, t.PermittedDNSDomains = true, []string{"other.example"}
			})
		}, verify.NameConstraints},
		"DNS name excluded": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) {
				t.PermittedDNSDomainsCritical, t.ExcludedDNSDomains = true, []string{"example"}
			})
		}, verify.NameConstraints},
		"address excluded": {func(s *specimen) string {
			return s.under(func(t *x509.Certificate) {
				t.PermittedDNSDomainsCritical, t.ExcludedIPRanges = true, []*net.IPNet{{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}}
			})
		}, verify.NameConstraints},
		"directory name not permitted": {func(s *specimen) string {
			dn, err := asn1.Marshal(pkix.Name{Organization: []string{"Elsewhere"}}.ToRDNSequence())
			require.NoError(s.t, err)
			return s.under(extra(true, nameConstraint(0, 0xa4, dn), 2, 5, 29, 30))
		}, verify.NameConstraints},
		"directory name excluded": {func(s *specimen) string {
			dn, err := asn1.Marshal(pkix.Name{CommonName: "ROUTER"}.ToRDNSequence())
			require.NoError(s.t, err)
			return s.under(extra(true, nameConstraint(1, 0xa4, dn), 2, 5, 29, 30))
		}, verify.NameConstraints},
		"constraint of an unknown form": {func(s *specimen) string {
			return s.under(extra(true, nameConstraint(0, 0x88, []byte{42, 3}), 2, 5, 29, 30))
		}, verify.CriticalExtension},
		"name constraints not critical": {func(s *specimen) string {
			return s.under(extra(false, nameConstraint(0, 0x82, []byte("example")), 2, 5, 29, 30))
		}, verify.Extension},
		"policy required": {func(s *specimen) string { return s.under(extra(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)) }, verify.Policy},
		"authority signed with SHA-1": {func(s *specimen) string {
			sub := s.b.ca.Intermediate(s.t, "weak")
			der := rework(s.t, sub.Cert.Raw, s.b.ca.Key, func(c *tbs) { c.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1} })
			return string(testca.PEM(sub.Leaf(s.t, "router", s.key.Public()))) + block("CERTIFICATE", der)
		}, verify.SignatureAlgorithm},
		"root expired": {func(s *specimen) string {
			ca := testca.Root(s.t, "ended", start, func(t *x509.Certificate) { t.NotAfter = start.Add(-time.Hour) })
			s.warn(ca.Cert)
			return string(testca.PEM(ca.Leaf(s.t, "router", s.key.Public())))
		}, verify.Expired},
		"root without keyCertSign, configured with warnings": {func(s *specimen) string {
			ca := testca.Root(s.t, "lax", start, func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageDigitalSignature })
			s.warn(ca.Cert)
			return string(testca.PEM(ca.Leaf(s.t, "router", s.key.Public())))
		}, verify.KeyUsage},
		"root with RSA 1024": {func(s *specimen) string {
			ca := testca.RootKey(s.t, "small", start, rsaKey(s.t, 1024))
			s.warn(ca.Cert)
			return string(testca.PEM(ca.Leaf(s.t, "router", s.key.Public())))
		}, verify.KeySize},
		"the leaf itself among the trusted": {func(s *specimen) string {
			self := &testca.CA{Cert: &x509.Certificate{Subject: pkix.Name{CommonName: "router"}}, Key: s.key, Now: start}
			c := self.Leaf(s.t, "router", s.key.Public())
			s.warn(c)
			return string(testca.PEM(c))
		}, verify.Untrusted},

		// Revocation.
		"revoked": {func(s *specimen) string {
			c := s.leaf()
			s.lists.revoked[c.SerialNumber.String()] = "keyCompromise"
			return string(testca.PEM(c, s.sub.Cert))
		}, verify.Revoked},
		"authority revoked": {func(s *specimen) string { s.lists.revoked[s.sub.Cert.SerialNumber.String()] = ""; return s.text() }, verify.Revoked},
		"not known whether revoked": {func(s *specimen) string {
			c := s.leaf()
			s.lists.unknown[c.SerialNumber.String()] = errors.New("no list for this issuer")
			return string(testca.PEM(c, s.sub.Cert))
		}, verify.RevocationUnknown},
	}
	require.GreaterOrEqual(t, len(cases), 60)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpecimen(t)
			text := c.make(s)
			report, err := s.b.m.Ingest(t.Context(), "n", []byte(text))
			f := failure(t, err)
			require.True(t, f.Has(c.want), "want %s: %v", c.want, err)
			require.Len(t, report.Checks, 3)
			require.False(t, report.Accepted)
			require.NotContains(t, err.Error(), "\n")
			_, cert := s.b.files(t, "n")
			require.Empty(t, cert, "something was written")
			require.Empty(t, s.b.reauths)
		})
	}
}

// warn trusts a faulty authority in the mode that takes it.
func (s *specimen) warn(c *x509.Certificate) {
	_, err := s.b.m.AddTrust(s.t.Context(), "lax", testca.PEM(c), pki.Strict)
	require.Error(s.t, err, "strict takes it")
	b, err := s.b.m.AddTrust(s.t.Context(), "lax", testca.PEM(c), pki.Warn)
	require.NoError(s.t, err)
	require.NotEmpty(s.t, b.Issues)
}

// otherKey stores a key and makes a certificate for it.
func (s *specimen) otherKey(key crypto.Signer) string {
	s.store(key)
	return string(testca.PEM(s.sub.Leaf(s.t, "router", key.Public()), s.sub.Cert))
}

// signedWith makes a trusted authority with a key and a certificate of it.
func (s *specimen) signedWith(key crypto.Signer) string {
	ca := testca.RootKey(s.t, "special", start, key)
	s.warn(ca.Cert)
	return string(testca.PEM(ca.Leaf(s.t, "router", s.key.Public())))
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return k
}

func edKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return k
}

// dsaKey returns a SubjectPublicKeyInfo.
func dsaKey(t *testing.T) []byte {
	t.Helper()
	p := struct{ P, Q, G *big.Int }{P: new(big.Int).Lsh(big.NewInt(1), 1023), Q: new(big.Int).Lsh(big.NewInt(1), 159), G: big.NewInt(3)}
	params, err := asn1.Marshal(p)
	require.NoError(t, err)
	y, err := asn1.Marshal(big.NewInt(12345))
	require.NoError(t, err)
	der, err := asn1.Marshal(struct {
		Alg pkix.AlgorithmIdentifier
		Key asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, Parameters: asn1.RawValue{FullBytes: params}}, asn1.BitString{Bytes: y, BitLength: 8 * len(y)}})
	require.NoError(t, err)
	return der
}

func TestCorpusBundles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := testca.Root(t, "r", start)
	sub := root.Intermediate(t, "s")
	leaf := sub.Leaf(t, "l", testca.ECKey(t).Public())
	edited := func(e testca.Edit) string { return string(testca.PEM(testca.Root(t, "x", start, e).Cert)) }
	for name, c := range map[string]struct {
		text   string
		want   verify.Class
		always bool // refused in warn mode too
	}{
		"empty":                {"", verify.Malformed, true},
		"text":                 {"hello", verify.Malformed, true},
		"one block is damaged": {string(testca.PEM(root.Cert)) + block("CERTIFICATE", []byte{0x30, 1, 0}), verify.Malformed, true},
		"a request":            {string(b.csr(t, "n")), verify.Malformed, true},
		"many":                 {strings.Repeat(string(testca.PEM(root.Cert)), 300), verify.TooLarge, true},
		"huge":                 {strings.Repeat(" ", 2<<20), verify.TooLarge, true},
		"a leaf":               {string(testca.PEM(root.Cert, sub.Cert, leaf)), verify.BasicConstraints, false},
		"no root":              {string(testca.PEM(sub.Cert)), verify.Untrusted, false},
		"expired":              {edited(func(t *x509.Certificate) { t.NotAfter = start.Add(-1 * time.Hour) }), verify.Expired, false},
		"not yet valid":        {edited(func(t *x509.Certificate) { t.NotBefore = start.Add(time.Hour) }), verify.NotYetValid, false},
		"no keyCertSign":       {edited(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCRLSign }), verify.KeyUsage, false},
		"not critical":         {edited(extra(false, []byte{0x30, 3, 1, 1, 0xff}, 2, 5, 29, 19)), verify.BasicConstraints, false},
		"RSA 1024":             {string(testca.PEM(testca.RootKey(t, "x", start, rsaKey(t, 1024)).Cert)), verify.KeySize, false},
		"Ed25519":              {string(testca.PEM(testca.RootKey(t, "x", start, edKey(t)).Cert)), verify.SignatureAlgorithm, false},
	} {
		_, err := b.m.AddTrust(t.Context(), "t", []byte(c.text), pki.Strict)
		require.True(t, failure(t, err).Has(c.want), "%s: %v", name, err)
		bundle, err := b.m.AddTrust(t.Context(), "t", []byte(c.text), pki.Warn)
		if c.always {
			require.True(t, failure(t, err).Has(c.want), "%s: %v", name, err)
			continue
		}
		require.NoError(t, err, name)
		require.NotEmpty(t, bundle.Issues, name)
		require.NoError(t, b.m.RemoveTrust(t.Context(), "t"))
	}
	for _, order := range [][]*x509.Certificate{{sub.Cert, root.Cert}, {root.Cert, sub.Cert}} {
		bundle, err := b.m.AddTrust(t.Context(), "t", append([]byte("# comment\n"), testca.PEM(order...)...), "")
		require.NoError(t, err)
		require.Empty(t, bundle.Issues)
	}
	require.Len(t, b.m.Trusted(), 2)
	_, err := b.m.AddTrust(t.Context(), "../t", testca.PEM(root.Cert), "off")
	require.ErrorContains(t, err, "validation_mode")
	require.ErrorIs(t, b.m.RemoveTrust(t.Context(), "nothing"), pki.ErrNotFound)
}

func TestCorpusPeers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := testca.Root(t, "other root", start)
	b.trust(t, "other", other.Cert)
	key := testca.ECKey(t)
	good := b.ca.Leaf(t, "peer", key.Public())
	client := b.ca.Leaf(t, "peer", key.Public(), func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	server := b.ca.Leaf(t, "peer", key.Public(), func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	var many []*x509.Certificate
	for range 40 {
		many = append(many, good)
	}
	for name, c := range map[string]struct {
		certs []*x509.Certificate
		host  string
		o     pki.PeerOptions
		want  verify.Class
	}{
		"right":                 {[]*x509.Certificate{good}, "peer.example", pki.PeerOptions{Server: true, Trust: "root"}, ""},
		"right by address":      {[]*x509.Certificate{good}, "127.0.0.1", pki.PeerOptions{Server: true}, ""},
		"wrong name":            {[]*x509.Certificate{good}, "other.example", pki.PeerOptions{Server: true}, verify.NameMismatch},
		"common name as a name": {[]*x509.Certificate{good}, "peer", pki.PeerOptions{Server: true}, verify.NameMismatch},
		"client as server":      {[]*x509.Certificate{client}, "peer.example", pki.PeerOptions{Server: true}, verify.ExtendedKeyUsage},
		"server as client":      {[]*x509.Certificate{server}, "", pki.PeerOptions{}, verify.ExtendedKeyUsage},
		"other anchor":          {[]*x509.Certificate{good}, "", pki.PeerOptions{Trust: "other"}, verify.Untrusted},
		"no such bundle":        {[]*x509.Certificate{good}, "", pki.PeerOptions{Trust: "nothing"}, verify.Untrusted},
		"nothing":               {nil, "", pki.PeerOptions{}, verify.Malformed},
		"many":                  {many, "", pki.PeerOptions{}, verify.TooLarge},
	} {
		for range 2 { // the second answer comes from memory
			c.o.Name = c.host
			err := b.m.VerifyPeer(t.Context(), c.certs, c.o)
			if c.want == "" {
				require.NoError(t, err, name)
				continue
			}
			require.True(t, failure(t, err).Has(c.want), "%s: %v", name, err)
		}
	}
	err := b.m.VerifyPeer(t.Context(), []*x509.Certificate{good}, pki.PeerOptions{Trust: "other"})
	require.ErrorContains(t, err, `its trust anchor is "CN=root,O=Test", which is not in the bundle "other"`)
}

func TestRevocationKit(t *testing.T) {
	t.Parallel()
	ca := testca.Root(t, "root", start)
	leaf := func() *x509.Certificate { return ca.Leaf(t, "x", testca.ECKey(t).Public()) }
	c := pkitest.Cases{Issuer: ca.Cert, Good: leaf(), Revoked: leaf(), Unknown: leaf(), UnknownIssuer: ca.Cert}
	pkitest.Revocation(t, &lists{
		revoked: map[string]string{c.Revoked.SerialNumber.String(): ""},
		unknown: map[string]error{c.Unknown.SerialNumber.String(): errors.New("no list")},
	}, c)
}
