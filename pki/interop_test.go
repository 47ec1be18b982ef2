package pki_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmsim"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/keystore"
)

// shell is a directory in which openssl works.
type shell struct {
	t   *testing.T
	dir string
	bin string
}

func newShell(t *testing.T) *shell {
	return &shell{t: t, dir: t.TempDir(), bin: peer.Need(t, "openssl")}
}

func (s *shell) run(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, "openssl %v: %s", args, out)
	return string(out)
}

func (s *shell) write(name string, data []byte) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, name), data, 0o600))
}

func (s *shell) read(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	require.NoError(s.t, err)
	return data
}

// presentBench is a bench in the present, for peers that look at the clock.
func presentBench(t testing.TB, edits ...func(*pki.Config)) *bench {
	t.Helper()
	b := &bench{recorder: &recorder{}, dir: t.TempDir(), now: time.Now(), ca: testca.Root(t, "root", time.Now())}
	b.open(t, append([]func(*pki.Config){func(c *pki.Config) { c.Now = time.Now }}, edits...)...)
	b.trust(t, "root", b.ca.Cert)
	return b
}

const caConfig = `[ca]
default_ca = c
[c]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = p
x509_extensions = v
copy_extensions = copy
[p]
countryName = match
organizationName = match
commonName = supplied
emailAddress = optional
[v]
basicConstraints = CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
`

// TestOpenSSLSigns has openssl check and answer our requests, both ways that it
// has, for every kind of key.
func TestOpenSSLSigns(t *testing.T) {
	t.Parallel()
	b := presentBench(t)
	s := newShell(t)
	s.run("req", "-x509", "-newkey", "rsa:3072", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/C=US/O=Example Org/CN=OpenSSL CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
	s.write("ca.cnf", []byte(caConfig))
	s.write("index.txt", nil)
	s.write("serial", []byte("1001\n"))
	_, err := b.m.AddTrust(t.Context(), "openssl", s.read("ca.pem"), pki.Strict)
	require.NoError(t, err)
	for n, kind := range []pki.KeyRequest{
		{Algorithm: "RSA", RSAKeySize: 2048}, {Algorithm: "RSA", RSAKeySize: 2304}, {Algorithm: "ECC", ECCCurve: "SECP256R"},
		{Algorithm: "ECC", ECCCurve: "SECP384R1"}, {Algorithm: "ECC", ECCCurve: "SECP521R1"},
	} {
		kind.Name = fmt.Sprintf("key%d", n)
		require.NoError(t, b.m.CreateKey(t.Context(), kind))
		text := s.run("pkey", "-in", filepath.Join(b.dir, kind.Name+".key"), "-noout", "-text", "-check")
		require.Contains(t, text, "Key is valid")
		csr, err := b.m.CreateRequest(t.Context(), pki.Request{
			Name: kind.Name, CommonName: "router", CountryName: "US", OrganizationName: "Example Org", EmailAddress: "a@example.com", SubjectAltNames: []string{"router.example"},
		})
		require.NoError(t, err)
		s.write("n.csr", csr)
		require.Contains(t, s.run("req", "-in", "n.csr", "-noout", "-verify"), "verify OK")

		s.run("x509", "-req", "-in", "n.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "365", "-copy_extensions", "copyall", "-out", "n.pem")
		report, err := b.m.Ingest(t.Context(), kind.Name, s.read("n.pem"))
		require.NoError(t, err)
		require.Equal(t, pki.StateValid, report.Certificate.State)

		s.run("ca", "-config", "ca.cnf", "-batch", "-in", "n.csr", "-cert", "ca.pem", "-keyfile", "ca.key", "-days", "365", "-out", "n2.pem", "-notext", "-subj", fmt.Sprintf("/C=US/O=Example Org/CN=router%d", n))
		_, err = b.m.Ingest(t.Context(), kind.Name, s.read("n2.pem"))
		require.NoError(t, err)
		stored := filepath.Join(b.dir, kind.Name+".pem")
		require.Contains(t, s.run("verify", "-CAfile", "ca.pem", "-purpose", "sslserver", stored), "OK")
	}
	// The policy "match" compares string types: the request's are as openssl's.
	csr, err := b.m.CreateRequest(t.Context(), pki.Request{Name: "key0", CommonName: "last", CountryName: "US", OrganizationName: "Example Org"})
	require.NoError(t, err)
	s.write("n.csr", csr)
	s.run("ca", "-config", "ca.cnf", "-batch", "-in", "n.csr", "-cert", "ca.pem", "-keyfile", "ca.key", "-days", "365", "-out", "n2.pem")
	_, err = b.m.Ingest(t.Context(), "key0", s.read("n2.pem"))
	require.NoError(t, err, "with the text of the certificate in front")
}

// tpmBench has its keys in a TPM.
func tpmBench(t *testing.T, kind pki.KeyRequest) (*bench, *tpmsim.TPM) {
	sim := tpmsim.New(t)
	store, err := keystore.NewTPM(sim, nil)
	require.NoError(t, err)
	b := presentBench(t, func(c *pki.Config) { c.Keys = store })
	kind.Name = "router"
	require.NoError(t, b.m.CreateKey(t.Context(), kind))
	csr, err := b.m.CreateRequest(t.Context(), pki.Request{Name: "router", CommonName: "router", SubjectAltNames: []string{"router.example", "127.0.0.1"}})
	require.NoError(t, err)
	_, err = b.m.Ingest(t.Context(), "router", testca.PEM(b.ca.Sign(t, csr)))
	require.NoError(t, err)
	key, _ := b.files(t, "router")
	require.True(t, strings.HasPrefix(key, "-----BEGIN TSS2 PRIVATE KEY-----"))
	return b, sim
}

// TestTPMKeysWithOpenSSL does TLS 1.3 handshakes with keys in a TPM on our side
// and openssl on the other, in both roles.
func TestTPMKeysWithOpenSSL(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]pki.KeyRequest{"RSA": {Algorithm: "RSA"}, "ECC": {Algorithm: "ECC", ECCCurve: "SECP256R1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := tpmBench(t, kind)
			s := newShell(t)
			peerKey := testca.ECKey(t)
			peerCert := b.ca.Leaf(t, "peer", peerKey.Public())
			der, err := x509.MarshalECPrivateKey(peerKey)
			require.NoError(t, err)
			s.write("peer.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
			s.write("peer.pem", testca.PEM(peerCert))
			s.write("ca.pem", testca.PEM(b.ca.Cert))

			t.Run("s_client", func(t *testing.T) {
				l, err := tls.Listen("tcp", "127.0.0.1:0", b.m.TLSConfig("router", pki.PeerOptions{Trust: "root"}))
				require.NoError(t, err)
				defer l.Close()
				errs := make(chan error, 1)
				go func() {
					conn, err := l.Accept()
					if err != nil {
						errs <- err
						return
					}
					defer conn.Close()
					line, err := bufio.NewReader(conn).ReadString('\n')
					if err == nil && line != "hello\n" {
						err = fmt.Errorf("read %q", line)
					}
					errs <- err
				}()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, s.bin, "s_client", "-connect", l.Addr().String(), "-tls1_3", "-CAfile", "ca.pem", "-verify_return_error",
					"-verify_hostname", "router.example", "-cert", "peer.pem", "-key", "peer.key", "-brief", "-no_ign_eof")
				cmd.Dir = s.dir
				in, err := cmd.StdinPipe()
				require.NoError(t, err)
				var out strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &out
				require.NoError(t, cmd.Start())
				_, err = io.WriteString(in, "hello\n")
				require.NoError(t, err)
				require.NoError(t, <-errs)
				require.NoError(t, in.Close())
				_ = cmd.Wait()
				require.Contains(t, out.String(), "TLSv1.3")
				require.Contains(t, out.String(), "Verification: OK")
			})
			t.Run("s_server", func(t *testing.T) {
				// openssl picks no port for itself and says which: a free one
				// is looked for, and another one is tried when it is gone.
				for range 5 {
					free, err := net.Listen("tcp", "127.0.0.1:0")
					require.NoError(t, err)
					addr := free.Addr().String()
					require.NoError(t, free.Close())
					if s.serve(t, b, addr) {
						return
					}
				}
				t.Fatal("no port for s_server")
			})
		})
	}
}

// serve runs s_server once and connects to it. It returns false when the port
// was taken by somebody else.
func (s *shell) serve(t *testing.T, b *bench, addr string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, "s_server", "-accept", addr, "-tls1_3", "-cert", "peer.pem", "-key", "peer.key", "-CAfile", "ca.pem",
		"-Verify", "3", "-verify_return_error", "-naccept", "1", "-rev")
	cmd.Dir = s.dir
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "ACCEPT") {
	}
	if !strings.HasPrefix(lines.Text(), "ACCEPT") {
		return false
	}
	config := b.m.TLSConfig("router", pki.PeerOptions{Trust: "root", Server: true})
	config.ServerName = "peer.example"
	conn, err := tls.Dial("tcp", addr, config)
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, uint16(tls.VersionTLS13), conn.ConnectionState().Version)
	_, err = io.WriteString(conn, "abc\n")
	require.NoError(t, err)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "cba\n", answer, "openssl turns lines round")
	return true
}

// TestTLSBetweenManagers replaces a certificate between two connections, and
// refuses who is not to be trusted.
func TestTLSBetweenManagers(t *testing.T) {
	t.Parallel()
	a := presentBench(t)
	a.provision(t, "server")
	a.provision(t, "client")
	dial := func(client func(*tls.Config)) (string, error) {
		l, err := tls.Listen("tcp", "127.0.0.1:0", a.m.TLSConfig("server", pki.PeerOptions{Trust: "root"}))
		require.NoError(t, err)
		defer l.Close()
		server := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				err = conn.(*tls.Conn).HandshakeContext(t.Context())
				_ = conn.Close()
			}
			server <- err
		}()
		cfg := a.m.TLSConfig("client", pki.PeerOptions{Trust: "root", Server: true})
		cfg.ServerName = "server.example"
		if client != nil {
			client(cfg)
		}
		conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
		if err != nil {
			<-server
			return "", err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), <-server
	}
	first, err := dial(nil)
	require.NoError(t, err)
	require.NoError(t, a.m.CreateKey(t.Context(), pki.KeyRequest{Name: "server", Algorithm: "ECC", Replace: true}))
	a.provision(t, "server")
	second, err := dial(nil)
	require.NoError(t, err)
	require.NotEqual(t, first, second, "without a restart")

	_, err = dial(func(c *tls.Config) { c.ServerName = "other.example" })
	require.ErrorContains(t, err, "name-mismatch")
	_, err = dial(func(c *tls.Config) { c.ServerName = "127.0.0.1" })
	require.ErrorContains(t, err, "is not set", "crypto/tls does not tell an address")
	byAddress := a.m.VerifyConnection(pki.PeerOptions{Server: true, Name: "127.0.0.2"})
	_, err = dial(func(c *tls.Config) { c.ServerName, c.VerifyConnection = "127.0.0.2", byAddress })
	require.ErrorContains(t, err, "name-mismatch")
	_, err = dial(func(c *tls.Config) { c.GetClientCertificate = nil })
	require.Error(t, err, "no certificate of the client")
	stranger := testca.Root(t, "stranger", time.Now())
	key := testca.ECKey(t)
	cert := stranger.Leaf(t, "client", key.Public())
	_, err = dial(func(c *tls.Config) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
		}
	})
	require.Error(t, err)
	require.NotZero(t, a.m.Counters().PeerInvalid)
	_, err = a.m.GetCertificate("nothing")(nil)
	require.ErrorIs(t, err, pki.ErrNotFound)
}
