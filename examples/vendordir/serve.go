package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mooringlib/mooring/autoinstall/directory"
)

const (
	leafLife  = 30 * 24 * time.Hour
	leafRenew = 7 * 24 * time.Hour
	drainTime = 5 * time.Second
)

func runServe(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("serve", stdout)
	dir := flags.String("dir", "", "`folder` that init made (required)")
	listen := flags.String("listen", "", "`address` to serve on (default: that of init)")
	unique := flags.Bool("unique-keys", false, "refuse a public key that is published under another serial number")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *dir == "" {
		return usagef("-dir is required: the folder that init made")
	}
	s, err := loadSettings(*dir)
	if err != nil {
		return err
	}
	if *listen == "" {
		*listen = s.Listen
	}
	host, _, err := net.SplitHostPort(*listen)
	if err != nil {
		return usagef("-listen is %q, not HOST:PORT", *listen)
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	leaf, err := newLeafMaker(*dir, ownNames(host, s.Hosts))
	if err != nil {
		return err
	}
	audit, err := openAudit(*dir, logger)
	if err != nil {
		return err
	}
	defer audit.Close()
	store, err := directory.OpenStore(filepath.Join(*dir, "store"))
	if err != nil {
		return err
	}
	defer store.Close()
	server, err := newServer(*dir, s, directory.Config{Store: store, Events: audit, Logger: logger, UniqueKeys: *unique})
	if err != nil {
		return err
	}
	return serve(ctx, *listen, server, leaf, stdout, logger)
}

func loadSettings(dir string) (settings, error) {
	var s settings
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%q is not a directory: make one with vendordir init", dir)
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s in %q is damaged: %w", settingsFile, dir, err)
	}
	return s, nil
}

func newServer(dir string, s settings, cfg directory.Config) (*directory.Server, error) {
	for _, t := range s.Tokens {
		hash, err := hex.DecodeString(t.SHA256)
		if err != nil || len(hash) != 32 {
			return nil, fmt.Errorf("the hash of token %q in %s is damaged", t.Name, settingsFile)
		}
		cfg.Tokens = append(cfg.Tokens, directory.Token{Name: t.Name, SHA256: [32]byte(hash)})
	}
	var err error
	if cfg.WrapCertificate, cfg.WrapKey, err = loadCA(dir, wrapName); err != nil {
		return nil, err
	}
	return directory.New(cfg)
}

func serve(ctx context.Context, listen string, handler http.Handler, leaf *leafMaker, stdout io.Writer, logger *slog.Logger) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           handler,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: leaf.get},
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // handshakes of strangers
	}
	fmt.Fprintf(stdout, "serving: https://%s/certificates/SERIAL.crt\n", ln.Addr())
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(ln, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	logger.Info("stopping")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err = srv.Shutdown(drain)
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func loadCA(dir, name string) (*x509.Certificate, crypto.Signer, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.crt and %s.key in %q: %w", name, name, dir, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s.key in %q can't sign", name, dir)
	}
	return pair.Leaf, signer, nil
}

// leafMaker makes the HTTPS certificate, in memory, and makes it anew in time.
type leafMaker struct {
	ca    *x509.Certificate
	key   crypto.Signer
	hosts []string

	mu   sync.Mutex
	pair *tls.Certificate
}

func newLeafMaker(dir string, hosts []string) (*leafMaker, error) {
	ca, key, err := loadCA(dir, caName)
	if err != nil {
		return nil, err
	}
	return &leafMaker{ca: ca, key: key, hosts: hosts}, nil
}

func (l *leafMaker) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pair != nil && time.Until(l.pair.Leaf.NotAfter) > leafRenew {
		return l.pair, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number, err := randomNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: "device directory"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range l.hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, l.ca, key.Public(), l.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	// The CA goes along for publishers, who know it by its fingerprint.
	l.pair = &tls.Certificate{Certificate: [][]byte{der, l.ca.Raw}, PrivateKey: key, Leaf: leaf}
	return l.pair, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		pool.AddCert(cert)
	}
	if pool.Equal(x509.NewCertPool()) {
		return nil, fmt.Errorf("%q holds no certificate in PEM", path)
	}
	return pool, nil
}
