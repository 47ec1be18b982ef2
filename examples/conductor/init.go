package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/sco"
)

const (
	caLifetime     = 10 * 365 * 24 * time.Hour
	serverLifetime = 2 * 365 * 24 * time.Hour
	// clockSlack dates certificates back for routers whose clocks are late.
	clockSlack = time.Hour

	// fileBegun stands in the directory while init works. With it, files that
	// are there are init's own, left by a run that was cut short.
	fileBegun = "init-in-progress"
)

func runInit(ctx context.Context, args []string, std stdio) error {
	f := newFlags("init", `init -dir DIR [-host NAME_OR_IP ...] [-cert F -key F -ca F]

Makes a CA, the conductor's key and certificate, an SSH host key and the store.
DIR is new, or empty and writable by its owner only.
Certificate, key and CA certificate of your own are copied into DIR instead when
all three are given. A run that was cut short is finished by running it again.`, std)
	dir := f.need("dir", "the `DIR` to make")
	var hosts list
	f.Var(&hosts, "host", "`NAME_OR_IP` of this conductor, for the certificate; repeat it for more (default: the host name)")
	f.more = &hosts
	cert := f.String("cert", "", "the conductor's certificate in PEM `F`ile; needs -key and -ca")
	key := f.String("key", "", "its private key in PEM `F`ile")
	ca := f.String("ca", "", "the CA certificate that signed it in PEM `F`ile")
	if err := f.parse(args); err != nil {
		return err
	}
	own := *cert != "" || *key != "" || *ca != ""
	if own && (*cert == "" || *key == "" || *ca == "") {
		return wrongUsage("init", "-cert, -key and -ca go together: give all three or none")
	}
	if own && len(hosts) > 0 {
		return wrongUsage("init", "-host is for a certificate that init makes, not for -cert")
	}
	if len(hosts) == 0 && !own {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding the host name: %w; give -host", err)
		}
		hosts = list{name}
	}
	var files identity
	var err error
	if own {
		files, err = readIdentity(*cert, *key, *ca)
	} else {
		files, err = newIdentity(hosts, time.Now())
	}
	if err != nil {
		return err
	}
	if err := writeDir(ctx, durable.Writer{}, *dir, files); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "conductor in %s is ready; add a router with \"conductor router add -dir %s ...\"\n", *dir, *dir)
	return nil
}

// identity is the content of the files that make a conductor.
type identity struct {
	ca, caKey, cert, key, hostKey []byte
}

// writeDir writes the marker last, and refuses a directory that is in use by
// anything else.
func writeDir(ctx context.Context, w durable.Writer, dir string, id identity) error {
	if _, err := os.Stat(filepath.Join(dir, fileMarker)); err == nil {
		return fmt.Errorf("%q is a conductor's directory already; nothing was changed", dir)
	}
	begun := filepath.Join(dir, fileBegun)
	if _, err := os.Stat(begun); errors.Is(err, fs.ErrNotExist) {
		if err := w.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := checkFree(dir); err != nil {
			return err
		}
		if err := w.WriteFile(begun, nil, 0o600); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := w.Sweep(dir); err != nil {
		return err
	}
	host, err := newHostKey()
	if err != nil {
		return err
	}
	id.hostKey = host
	for _, file := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
	}{
		{fileCA, id.ca, 0o644}, {fileCAKey, id.caKey, 0o600}, {fileCert, id.cert, 0o644}, {fileKey, id.key, 0o600}, {fileHostKey, id.hostKey, 0o600},
	} {
		if file.content == nil {
			continue
		}
		if err := w.WriteFile(filepath.Join(dir, file.name), file.content, file.mode); err != nil {
			return err
		}
	}
	db, _, err := openStore(ctx, filepath.Join(dir, fileStore))
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	marker, err := json.Marshal(map[string]int{"version": 1})
	if err != nil {
		return err
	}
	if err := w.WriteFile(filepath.Join(dir, fileMarker), append(marker, '\n'), 0o644); err != nil {
		return err
	}
	return w.Remove(begun)
}

// checkFree refuses a directory that is somebody else's, or that others may write
// to. Its mode is not changed: it may be /tmp.
func checkFree(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others may write to %q, its mode is %04o; give a new directory", dir, mode)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// All that an init that was cut short can leave before fileBegun.
		if !strings.HasPrefix(e.Name(), ".durable-"+fileBegun+"-") {
			return fmt.Errorf("%q is not empty, it has %.80q; give a new directory", dir, e.Name())
		}
	}
	return nil
}

func newHostKey() ([]byte, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "mooring conductor")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// newIdentity makes a CA and a certificate for hosts.
func newIdentity(hosts []string, now time.Time) (identity, error) {
	var id identity
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, err
	}
	caTemplate := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Conductor CA"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		return id, err
	}
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		return id, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "conductor"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(serverLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil && a.Zone() == "" {
			template.IPAddresses = append(template.IPAddresses, a.AsSlice())
		} else if validHostName(h) {
			template.DNSNames = append(template.DNSNames, h)
		} else {
			return id, fmt.Errorf("-host %.80q is neither a host name nor an IP address", h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return id, err
	}
	id.ca, id.cert = encodePEM("CERTIFICATE", caDER), encodePEM("CERTIFICATE", der)
	if id.caKey, err = encodeKey(caKey); err != nil {
		return id, err
	}
	id.key, err = encodeKey(key)
	return id, err
}

func validHostName(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

// serial draws 128 bits, of which RFC 5280 section 4.1.2.2 allows 159.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encodePEM("PRIVATE KEY", der), nil
}

// readIdentity reads the operator's own files and checks that they belong
// together.
func readIdentity(certFile, keyFile, caFile string) (identity, error) {
	var id identity
	cert, err := readCertificate(certFile)
	if err != nil {
		return id, fmt.Errorf("-cert: %w", err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return id, fmt.Errorf("-key: %w", err)
	}
	ca, err := readCertificate(caFile)
	if err != nil {
		return id, fmt.Errorf("-ca: %w", err)
	}
	if err := checkIdentity(cert, key, ca); err != nil {
		return id, err
	}
	id.cert, id.ca = encodePEM("CERTIFICATE", cert.Raw), encodePEM("CERTIFICATE", ca.Raw)
	id.key, err = encodeKey(key)
	return id, err
}

// checkIdentity has the library judge the files: it issues a token for a router
// that exists only for this.
func checkIdentity(cert *x509.Certificate, key crypto.Signer, ca *x509.Certificate) error {
	ctx := context.Background()
	reg, err := sco.NewRegistry(sco.RegistryConfig{Store: &sco.MemoryStore{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	err = reg.Configure(ctx, "check", func(r *sco.Router, _ bool) error {
		r.Mode, r.Nodes = sco.ModePSKOnly, []sco.Node{{Name: "check", AssetID: "check", Role: "check"}}
		return nil
	})
	if err != nil {
		return err
	}
	issuer, err := sco.NewIssuer(sco.IssuerConfig{Registry: reg, Settings: func(context.Context) (*sco.Settings, error) {
		return &sco.Settings{Certificate: cert, Key: key, CA: ca}, nil
	}})
	if err != nil {
		return err
	}
	_, err = issuer.IssueToken(ctx, "check", 0)
	if te, ok := errors.AsType[*sco.TokenError](err); ok {
		return fmt.Errorf("the files can't be used: %s", strings.Join(te.Reasons, "; "))
	}
	return err
}
