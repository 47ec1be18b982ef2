package main

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mooringlib/mooring/autoinstall/operator"
)

// maxInput bounds the files that are read.
const maxInput = 1 << 30

// encryptResult is what encrypt -json prints.
type encryptResult struct {
	File        string `json:"file"`
	Fingerprint string `json:"fingerprint"`
	Cipher      string `json:"cipher"`
	Bound       bool   `json:"bound,omitempty"`
	Signed      bool   `json:"signed"`
	Serial      string `json:"serial,omitempty"`
	Counter     uint64 `json:"counter,omitempty"`
}

func encrypt(args []string, stdin io.Reader, stdout io.Writer) error {
	fs := flag.NewFlagSet("encrypt", flag.ContinueOnError)
	certFile := fs.String("cert", "", "`file` with the device's certificate")
	in := fs.String("in", "", "`file` with the configuration, - for standard input")
	out := fs.String("out", "", "`file` to write, SERIAL.enc")
	cbc := fs.Bool("cbc", false, "write AES-256-CBC as in RFC 8886, for devices that read no AES-GCM")
	bind := fs.Bool("bind-cipher", false, "bind the content key to AES-256-GCM (RFC 9709), for devices that know it; openssl 3.0 does not")
	signKey := fs.String("sign-key", "", "`file` with the owner's private key in PEM: sign inside the encryption")
	signCert := fs.String("sign-cert", "", "`file` with the owner's certificate, and its chain, in PEM")
	counter := fs.Uint64("counter", 0, "`number` of the configuration, 1 or more; a device refuses smaller ones than it has seen")
	serial := fs.String("serial", "", "serial `number` of the one device that a signed configuration is for (default the name of -out without .enc)")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if err := parse(fs, "-cert F -in CFG -out SERIAL.enc [-cbc] [-sign-key K -sign-cert C -counter N] [-bind-cipher]", args, stdout,
		"cert", "in", "out"); err != nil {
		return err
	}
	counted := false
	fs.Visit(func(f *flag.Flag) { counted = counted || f.Name == "counter" })
	switch {
	case *cbc && *bind:
		return fmt.Errorf("%w: -cbc and -bind-cipher exclude each other: a device that reads only CBC cannot read a bound cipher", errUsage)
	case (*signKey == "") != (*signCert == ""):
		return fmt.Errorf("%w: -sign-key and -sign-cert belong together", errUsage)
	case counted && *signKey == "":
		return fmt.Errorf("%w: -counter has no effect without -sign-key and -sign-cert", errUsage)
	case *serial != "" && *signKey == "":
		return fmt.Errorf("%w: -serial has no effect without -sign-key and -sign-cert", errUsage)
	case counted && *counter == 0:
		return fmt.Errorf("%w: -counter begins with 1", errUsage)
	}
	data, err := os.ReadFile(*certFile)
	if err != nil {
		return fmt.Errorf("-cert: %w", err)
	}
	cfg := operator.EncryptConfig{CBC: *cbc, BindCipher: *bind}
	if cfg.Certificate, err = operator.ParseCertificate(data); err != nil {
		return fmt.Errorf("-cert %.80q: %w", *certFile, err)
	}
	result := encryptResult{File: *out, Fingerprint: operator.Fingerprint(cfg.Certificate), Cipher: "AES-256-GCM",
		Bound: *bind}
	if *cbc {
		result.Cipher = "AES-256-CBC"
	}
	if *signKey != "" {
		if cfg.Owner, err = readOwner(*signKey, *signCert); err != nil {
			return err
		}
		// The file is what a device with this serial number asks for, so that is the device it is for.
		if *serial == "" {
			var ok bool
			if *serial, ok = strings.CutSuffix(filepath.Base(*out), ".enc"); !ok {
				return fmt.Errorf("%w: -out %.80q: a signed configuration names its device, so the file has to be called SERIAL.enc, or -serial given",
					errUsage, *out)
			}
		}
		cfg.Owner.Serial, cfg.Owner.Counter = *serial, *counter
		result.Signed, result.Serial, result.Counter = true, *serial, *counter
	}
	configuration, err := readInput(*in, stdin)
	if err != nil {
		return err
	}
	message, err := operator.Encrypt(configuration, cfg)
	if err != nil {
		return err
	}
	if err := operator.Publish(*out, message); err != nil {
		return err
	}
	return result.print(stdout, *asJSON)
}

func (r encryptResult) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	signed := "not signed"
	if r.Signed {
		signed = "signed for " + r.Serial
		if r.Counter > 0 {
			signed += fmt.Sprintf(" with counter %d", r.Counter)
		}
	}
	cipher := r.Cipher
	if r.Bound {
		cipher += " with a bound key"
	}
	_, err := fmt.Fprintf(w, "%s: %s to key %s, %s\n", r.File, cipher, r.Fingerprint, signed)
	return err
}

func readInput(name string, stdin io.Reader) ([]byte, error) {
	src := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("-in: %w", err)
		}
		defer func() { _ = f.Close() }()
		src = f
	}
	data, err := io.ReadAll(io.LimitReader(src, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("-in: %w", err)
	}
	return data, nil
}

// readOwner reads the owner's key and certificate; further certificates are the chain.
func readOwner(keyFile, certFile string) (*operator.Owner, error) {
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("-sign-key: %w", err)
	}
	o := &operator.Owner{}
	if o.Key, err = parseKey(data); err != nil {
		return nil, fmt.Errorf("-sign-key %.80q: %w", keyFile, err)
	}
	if data, err = os.ReadFile(certFile); err != nil {
		return nil, fmt.Errorf("-sign-cert: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("-sign-cert %.80q: %w", certFile, err)
		}
		if o.Certificate == nil {
			o.Certificate = cert
		} else {
			o.Chain = append(o.Chain, cert)
		}
	}
	if o.Certificate == nil {
		return nil, fmt.Errorf("-sign-cert %.80q holds no certificate in PEM", certFile)
	}
	return o, nil
}

// parseKey reads the forms of private keys that openssl writes without a password. Its errors hold nothing of the key.
func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key has a password; write it without one to a file that only you can read")
		default:
			continue // EC PARAMETERS stand in front of the key
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, errors.New("the private key is damaged or of a kind that cannot sign")
		}
		return signer, nil
	}
	return nil, errors.New("no private key in PEM")
}
