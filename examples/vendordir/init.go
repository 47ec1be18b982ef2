package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/autoinstall/directory"
	"github.com/mooringlib/mooring/internal/durable"
)

const (
	settingsFile = "directory.json"
	caName       = "ca"
	wrapName     = "wrap"
	caYears      = 30
)

// settings is directory.json.
type settings struct {
	Listen string   `json:"listen"`
	Hosts  []string `json:"hosts"`
	Tokens []struct {
		Name   string `json:"name"`
		SHA256 string `json:"sha256"`
	} `json:"tokens"`
}

// hostList collects -host flags.
type hostList []string

func (h *hostList) String() string { return fmt.Sprint(*h) }

func (h *hostList) Set(s string) error {
	if s == "" || len(s) > 253 {
		return errors.New("not a name or an address")
	}
	*h = append(*h, s)
	return nil
}

func runInit(args []string, stdout io.Writer) error {
	flags := newFlags("init", stdout)
	dir := flags.String("dir", "", "`folder` to make (required)")
	listen := flags.String("listen", "", "`address` to serve on, HOST:PORT (required)")
	asJSON := flags.Bool("json", false, "print JSON")
	var hosts hostList
	flags.Var(&hosts, "host", "further `name` or address under which the directory is reached; may be repeated")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *dir == "" {
		return usagef("-dir is required: the folder to make")
	}
	host, _, err := net.SplitHostPort(*listen)
	if err != nil {
		return usagef("-listen is %q, not HOST:PORT", *listen)
	}
	if _, err := os.Stat(filepath.Join(*dir, settingsFile)); err == nil {
		return fmt.Errorf("%q is a directory already: it is never overwritten, give another -dir", *dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var disk durable.Writer
	if err := disk.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	ca, err := makeCA(disk, *dir, caName, "device directory CA")
	if err != nil {
		return err
	}
	if _, err := makeCA(disk, *dir, wrapName, "device directory key wrapper"); err != nil {
		return err
	}
	secret, err := directory.NewSecret(ca)
	if err != nil {
		return err
	}
	s := settings{Listen: *listen, Hosts: ownNames(host, hosts)}
	hash := secret.Hash()
	s.Tokens = append(s.Tokens, struct {
		Name   string `json:"name"`
		SHA256 string `json:"sha256"`
	}{"manufacturing", hex.EncodeToString(hash[:])})
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := disk.WriteFile(filepath.Join(*dir, settingsFile), append(b, '\n'), 0o600); err != nil {
		return err
	}
	return printInit(stdout, *dir, ca, secret, *asJSON)
}

// printInit shows the two things that others need. The token is shown here and
// nowhere else: only its hash is kept.
func printInit(w io.Writer, dir string, ca *x509.Certificate, secret directory.Secret, asJSON bool) error {
	path := filepath.Join(dir, caName+".crt")
	caPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
	if asJSON {
		return json.NewEncoder(w).Encode(map[string]string{"ca_file": path, "ca": caPEM, "token": secret.Reveal()})
	}
	_, err := fmt.Fprintf(w, "ca: %s\ntoken: %s\n\nGive operators the CA certificate:\n\n%s\nGive manufacturing the token. It is shown this once.\n",
		path, secret.Reveal(), caPEM)
	return err
}

// ownNames are the names that the HTTPS certificate has.
func ownNames(host string, more []string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		names = append(names, host)
	} else if own, err := os.Hostname(); err == nil {
		names = append(names, own)
	}
	return append(names, more...)
}

// makeCA makes a key and a self-signed certificate that may sign others.
func makeCA(disk durable.Writer, dir, file, name string) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number, err := randomNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: name + " " + hex.EncodeToString(number.Bytes()[:4])},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(caYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := disk.WriteFile(filepath.Join(dir, file+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, err
	}
	if err := disk.WriteFile(filepath.Join(dir, file+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// randomNumber is a serial number of 16 octets, the first of them not zero.
func randomNumber() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}
