package certtext_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/pki/certtext"
)

func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, peer.Need(t, "openssl"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

const config = `[req]
distinguished_name = d
[d]
[dn]
C = UK
CN = dirname
`

// TestSameAsOpenSSL compares every line of the text.
func TestSameAsOpenSSL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cnf"), []byte(config), 0o600))
	keys := map[string][]string{
		"p256": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"p384": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"p521": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
		"rsa":  {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	}
	for name, args := range keys {
		openssl(t, dir, append(append([]string{"genpkey"}, args...), "-out", name+".key")...)
	}
	all := []string{
		"basicConstraints=critical,CA:TRUE,pathlen:3", "subjectKeyIdentifier=hash",
		"subjectAltName=DNS:a.b,IP:1.2.3.4,IP:2001:db8::1,email:a@b.c,URI:http://x/y,dirName:dn,RID:1.2.3.4,otherName:1.2.3.4;UTF8:hi",
		"keyUsage=critical,digitalSignature,nonRepudiation,keyCertSign,cRLSign", "extendedKeyUsage=serverAuth,clientAuth,codeSigning,1.2.3.4.5",
		"crlDistributionPoints=URI:http://c/1.crl,URI:http://c/2.crl", "authorityInfoAccess=OCSP;URI:http://ocsp/,caIssuers;URI:http://ca/x.cer",
		"certificatePolicies=1.2.3.4,anyPolicy", "nameConstraints=critical,permitted;DNS:b.c,permitted;email:.b.c,excluded;IP:10.0.0.0/255.0.0.0,excluded;dirName:dn",
		"policyConstraints=critical,requireExplicitPolicy:3,inhibitPolicyMapping:0", "inhibitAnyPolicy=critical,2", "tlsfeature=status_request",
		"1.2.3.4.9=DER:0403010203",
	}
	for name, c := range map[string]struct {
		subject string
		key     string
		args    []string
		ext     []string
	}{
		"everything":    {"/C=US/ST=California/L=San Francisco/O=Ex, Inc/OU=IT/CN=a/emailAddress=a@b.c", "p256", nil, all},
		"plain":         {"/CN=plain", "rsa", []string{"-set_serial", "4711"}, nil},
		"pss":           {"/CN=pss/serialNumber=12", "rsa", []string{"-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}, nil},
		"p384":          {"/CN=p384/DC=example", "p384", []string{"-sha384", "-set_serial", "0xfedcba9876543210"}, nil},
		"p521":          {`/CN=a\+b "c"`, "p521", []string{"-sha512"}, []string{"extendedKeyUsage=critical,OCSPSigning"}},
		"issuer serial": {"/O=x/CN=aki", "p256", nil, []string{"subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid,issuer:always"}},
		"multi-valued":  {"/CN=a+OU=b/O=#x", "p256", []string{"-multivalue-rdn"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"req", "-x509", "-new", "-config", "cnf", "-key", c.key + ".key", "-subj", c.subject, "-days", "30", "-out", "c.pem"}
			args = append(args, c.args...)
			for _, e := range c.ext {
				args = append(args, "-addext", e)
			}
			openssl(t, dir, args...)
			data, err := os.ReadFile(filepath.Join(dir, "c.pem"))
			require.NoError(t, err)
			block, _ := pem.Decode(data)
			cert, err := x509.ParseCertificate(block.Bytes)
			require.NoError(t, err)
			d := certtext.New(cert)
			want := openssl(t, dir, "x509", "-in", "c.pem", "-noout", "-text")
			require.Equal(t, lines(want), lines(d.Text()))
			for _, hash := range []string{"sha1", "sha256"} {
				fp := openssl(t, dir, "x509", "-in", "c.pem", "-noout", "-fingerprint", "-"+hash)
				_, fp, _ = strings.Cut(strings.TrimSpace(fp), "=")
				require.Contains(t, []string{d.FingerprintSHA1, d.FingerprintSHA256}, fp)
			}
			_, err = json.Marshal(d)
			require.NoError(t, err)
		})
	}
}

// lines drops white space at the ends, of which OpenSSL writes some.
func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func FuzzNew(f *testing.F) {
	dir := filepath.Join("..", "..", "..", "shared", "testdata", "pkits", "certs")
	if files, err := filepath.Glob(filepath.Join(dir, "Valid*.crt")); err == nil {
		for _, name := range files {
			if der, err := os.ReadFile(name); err == nil {
				f.Add(der)
			}
		}
	}
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		text := certtext.New(c).Text()
		if !strings.HasPrefix(text, "Certificate:\n") || strings.ContainsAny(text, "\x00\x1b") {
			t.Fatalf("bad text: %q", text)
		}
	})
}

func ExampleName() {
	der := []byte{0x30, 0x0d, 0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x06, 0x13, 0x02, 'U', 'S'}
	fmt.Println(certtext.Name(der))
	// Output: C = US
}
