package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"certd": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	peer.Need(t, "openssl")
	peer.Need(t, "swtpm")
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true})
}

// server is a running "certd serve".
type server struct {
	dir, url, ca string
	stop         func()
}

// start runs certd as a process of its own.
func start(t *testing.T, dir string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "certd", "serve", "-dir", dir, "-listen", "127.0.0.1:0", "-json")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s := &server{dir: dir}
	s.stop = func() {
		cancel()
		_ = cmd.Wait()
	}
	t.Cleanup(s.stop)
	var hello struct{ Listening, CA string }
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&hello); err != nil {
		s.stop()
		t.Fatalf("serve: %v: %s", err, stderr.String())
	}
	s.url, s.ca = hello.Listening, hello.CA
	return s
}

func certd(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "certd", args...).CombinedOutput()
	require.NoError(t, err, "certd %v: %s", args, out)
	return string(out)
}

// setUp makes a directory with a user, and starts to serve.
func setUp(t *testing.T) *server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	pw := filepath.Join(t.TempDir(), "pw")
	require.NoError(t, os.WriteFile(pw, []byte("TheAdminPassword1234\n"), 0o600))
	certd(t, "init", "-dir", dir, "-user", "admin", "-password-file", pw)
	return start(t, dir)
}

// authority is a CA of the customer.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "customer CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) sign(t *testing.T, csr string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(csr))
	require.NotNil(t, block)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, RawSubject: r.RawSubject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, r.PublicKey, a.key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestCurl runs the commands of the product's documentation, with the address
// changed, and with the authority given where they switch verification off.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl := peer.Need(t, "curl")
	s := setUp(t)
	work := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o600))
	}
	run := func(script string) map[string]any {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "CURL="+curl+" -s -S", "URL="+s.url, "CA="+s.ca)
		out, err := cmd.Output()
		require.NoError(t, err, "%s: %s", script, out)
		var v map[string]any
		require.NoError(t, json.Unmarshal(out, &v), string(out))
		return v
	}
	for _, verify := range []string{"-k", `--cacert "$CA"`} {
		v := run(`$CURL "$URL/api/v1/login" --compressed ` + verify + ` -X POST \
  -H 'User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:137.0) Gecko/20100101 Firefox/137.0' \
  -H 'Accept: */*' \
  -H 'Accept-Language: en-US,en;q=0.5' \
  -H 'Accept-Encoding: gzip, deflate, br, zstd' \
  -H "Referer: $URL/" \
  -H 'Content-Type: application/json' \
  -H 'X-Request-Id: MmUzMGMzNj' \
  -H "Origin: $URL" \
  -H 'Connection: keep-alive' \
  -H 'Sec-Fetch-Dest: empty' \
  -H 'Sec-Fetch-Mode: cors' \
  -H 'Sec-Fetch-Site: same-origin' \
  -H 'Priority: u=0' \
  -H 'TE: trailers' \
  --data-raw '{"username":"admin","password":"TheAdminPassword1234","application":"GUI"}'`)
		require.Regexp(t, `^eyJ[\w-]+\.[\w-]+\.[\w-]+$`, v["token"])
		write("token.txt", v["token"].(string)+"\n")
	}
	const rest = ` -H "Content-Type: application/json" -H "Authorization: Bearer $(cat token.txt)" `
	write("key_request.json", `{
    "name": "custom_ssr_peering", 
    "algorithm": "RSA",
    "rsa_key_size": "2048"
}
`)
	v := run(`$CURL -k -X POST $URL/api/v1/private-key` + rest + `-d @key_request.json`)
	require.Equal(t, "custom_ssr_peering", v["name"])
	require.FileExists(t, filepath.Join(s.dir, "custom_ssr_peering.key"))

	write("csr_request.json", `{
    "name": "custom_ssr_peering",
    "common_name": "SSR_12345679"
}
`)
	v = run(`$CURL -k -X GET $URL/api/v1/certificate-request` + rest + `-d @csr_request.json`)
	csr := v["csr"].(string)
	require.True(t, strings.HasPrefix(csr, "-----BEGIN CERTIFICATE REQUEST-----\n"))

	// The documentation shows the certificate with real line breaks between
	// the quotes, and "-d @" takes them away.
	ca := newAuthority(t)
	write("ca.pem", ca.pem())
	certd(t, "trust", "add", "-dir", s.dir, "-name", "customer", "-file", filepath.Join(work, "ca.pem"))
	cert := ca.sign(t, csr)
	write("certificate.json", "{\n    \"name\": \"custom_ssr_peering\",\n    \"certificate\": \""+strings.TrimSpace(cert)+"\"\n}\n")
	for _, flag := range []string{"-d", "--data-binary"} {
		v = run(`$CURL --cacert "$CA" -X POST $URL/api/v1/certificate` + rest + flag + ` @certificate.json`)
		require.Equal(t, true, v["accepted"], "%s: %v", flag, v)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "custom_ssr_peering.pem"))
	require.NoError(t, err)
	require.Equal(t, cert, string(data))
	audit, err := os.ReadFile(filepath.Join(s.dir, "certd", "audit.jsonl"))
	require.NoError(t, err)
	for _, kind := range []string{"system.login", "system.api_call", "system.generate_private_key", "system.generate_csr", "system.ingest_certificate"} {
		require.Contains(t, string(audit), kind)
	}
	require.NotContains(t, string(audit), "TheAdminPassword")
}

// TestOwnCertificateIsReplaced puts a customer's certificate under the name of
// certd's own while it serves.
func TestOwnCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	ca := newAuthority(t)
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, []byte(ca.pem()), 0o600))
	certd(t, "trust", "add", "-dir", s.dir, "-name", "customer", "-file", file)
	certd(t, "key", "-dir", s.dir, "-name", "https", "-algorithm", "ECC", "-ecc-curve", "SECP384R1", "-replace")
	csr := certd(t, "csr", "-dir", s.dir, "-name", "https", "-common-name", "router", "-subject-alt-name", "IP:127.0.0.1")
	require.NoError(t, os.WriteFile(file, []byte(ca.sign(t, csr)), 0o600))
	certd(t, "ingest", "-dir", s.dir, "-name", "https", "-certificate", file)
	require.Eventually(t, func() bool {
		pool := x509.NewCertPool()
		pool.AddCert(ca.cert)
		conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{RootCAs: pool})
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName == "router"
	}, time.Minute, 100*time.Millisecond)
	// It stays after a restart.
	s.stop()
	s = start(t, s.dir)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "router", conn.ConnectionState().PeerCertificates[0].Subject.CommonName)
}

// TestKilledWhileReplacing kills the program at moments spread over a
// replacement of key and certificate, and reads the pair as openssl would.
func TestKilledWhileReplacing(t *testing.T) {
	t.Parallel()
	dir, file := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "f")
	ca := newAuthority(t)
	require.NoError(t, os.WriteFile(file, []byte(ca.pem()), 0o600))
	certd(t, "trust", "add", "-dir", dir, "-name", "customer", "-file", file)
	renew := func() {
		csr := certd(t, "csr", "-dir", dir, "-name", "n", "-common-name", "c", "-algorithm", "ECC")
		require.NoError(t, os.WriteFile(file, []byte(ca.sign(t, csr)), 0o600))
	}
	renew()
	certd(t, "ingest", "-dir", dir, "-name", "n", "-certificate", file)
	certd(t, "key", "-dir", dir, "-name", "n", "-algorithm", "ECC", "-replace")
	renew()
	begin := time.Now()
	certd(t, "ingest", "-dir", dir, "-name", "n", "-certificate", file)
	whole := time.Since(begin)
	const kills = 25
	killed := 0
	for n := range kills {
		certd(t, "key", "-dir", dir, "-name", "n", "-algorithm", "ECC", "-replace")
		renew()
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(n+1)/kills)
		err := exec.CommandContext(ctx, "certd", "ingest", "-dir", dir, "-name", "n", "-certificate", file).Run()
		cancel()
		if err != nil {
			killed++
		}
		_, err = tls.LoadX509KeyPair(filepath.Join(dir, "n.pem"), filepath.Join(dir, "n.key"))
		require.NoError(t, err, "a mix after kill %d", n)
	}
	require.NotZero(t, killed)
	require.Regexp(t, `(?m)^n +valid`, certd(t, "show", "-dir", dir))
}
