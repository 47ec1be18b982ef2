package sco

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/internal/durable"
)

// The files in a router's directory.
const (
	fileSSHKey     = "ssh_key"
	fileEnrollment = "enrollment.json"
	fileCA         = "conductor-ca.pem"
	fileKnownHosts = "known_hosts"
)

// ownFiles are all of them.
func ownFiles() []string { return []string{fileSSHKey, fileEnrollment, fileCA, fileKnownHosts} }

// Enrollment is what an onboarded router knows about its conductor.
type Enrollment struct {
	// Router, Node and AssetID are the router's names at the conductor.
	Router, Node, AssetID string
	// SSHAddresses are the conductor's SSH servers, HOST:PORT, in the order
	// of preference.
	SSHAddresses []string
	// HostKeys are the only host keys that the SSH servers may have.
	HostKeys []ssh.PublicKey
	// CA is the conductor's CA certificate.
	CA *x509.Certificate
	// InitialConfig is the opaque configuration that the token carried.
	InitialConfig []byte
	// At is when the router was onboarded.
	At time.Time

	tokenHash string
	sshKey    ssh.Signer
}

// Signer returns the router's SSH key.
func (e *Enrollment) Signer() ssh.Signer { return e.sshKey }

// enrollmentFile is the stored form.
type enrollmentFile struct {
	Version       int       `json:"version"`
	Router        string    `json:"router"`
	Node          string    `json:"node"`
	AssetID       string    `json:"asset-id"`
	SSHAddresses  []string  `json:"ssh-addresses"`
	HostKeys      []string  `json:"host-keys"`
	CA            []byte    `json:"conductor-ca-cert"`
	InitialConfig []byte    `json:"initial-config,omitempty"`
	At            time.Time `json:"at"`
	TokenHash     string    `json:"token-sha256"`
}

func (e *Enrollment) encode() ([]byte, error) {
	f := enrollmentFile{
		Version: 1, Router: e.Router, Node: e.Node, AssetID: e.AssetID, SSHAddresses: e.SSHAddresses,
		CA: e.CA.Raw, InitialConfig: e.InitialConfig, At: e.At, TokenHash: e.tokenHash,
	}
	for _, k := range e.HostKeys {
		f.HostKeys = append(f.HostKeys, authorizedKey(k))
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("sco: %w", err)
	}
	return append(b, '\n'), nil
}

func decodeEnrollment(b []byte) (*Enrollment, error) {
	if len(b) > maxEnrollment {
		return nil, fmt.Errorf("%d bytes, the most is %d", len(b), maxEnrollment)
	}
	var f enrollmentFile
	if err := strictJSON(b, &f); err != nil {
		return nil, err
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("version %d, this program knows version 1", f.Version)
	}
	e := &Enrollment{
		Router: f.Router, Node: f.Node, AssetID: f.AssetID, SSHAddresses: f.SSHAddresses,
		InitialConfig: f.InitialConfig, At: f.At, tokenHash: f.TokenHash,
	}
	if err := errors.Join(checkName("router", f.Router), checkName("node", f.Node), checkAssetID(f.AssetID)); err != nil {
		return nil, err
	}
	if len(f.SSHAddresses) == 0 || len(f.SSHAddresses) > maxAddresses {
		return nil, fmt.Errorf("%d SSH addresses, there are 1..%d", len(f.SSHAddresses), maxAddresses)
	}
	for _, a := range f.SSHAddresses {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	var err error
	if e.CA, err = x509.ParseCertificate(f.CA); err != nil {
		return nil, fmt.Errorf("conductor-ca-cert: %w", err)
	}
	for _, s := range f.HostKeys {
		k, err := parseAuthorizedKey(s)
		if err != nil {
			return nil, err
		}
		e.HostKeys = append(e.HostKeys, k)
	}
	if len(e.HostKeys) == 0 {
		return nil, errors.New("no host keys")
	}
	return e, nil
}

// LoadEnrollment reads what [Onboard] stored in dir. Where nothing, or not
// everything, was stored yet the error wraps [ErrNotOnboarded].
func LoadEnrollment(dir string) (*Enrollment, error) {
	b, err := readFile(filepath.Join(dir, fileEnrollment), maxEnrollment)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q has no %s", ErrNotOnboarded, dir, fileEnrollment)
	}
	if err != nil {
		return nil, fmt.Errorf("sco: reading the enrollment: %w", err)
	}
	e, err := decodeEnrollment(b)
	if err != nil {
		return nil, fmt.Errorf("sco: reading %q: %w", filepath.Join(dir, fileEnrollment), err)
	}
	key, err := loadSSHKey(dir)
	if err != nil {
		return nil, err
	}
	e.sshKey = key
	return e, nil
}

// store writes the files for other programs first and the enrollment last.
func (e *Enrollment) store(w durable.Writer, dir string) error {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.CA.Raw})
	if err := w.WriteFile(filepath.Join(dir, fileCA), ca, 0o644); err != nil {
		return fmt.Errorf("sco: storing the conductor's CA: %w", err)
	}
	if err := w.WriteFile(filepath.Join(dir, fileKnownHosts), e.knownHosts(), 0o644); err != nil {
		return fmt.Errorf("sco: storing the host keys: %w", err)
	}
	b, err := e.encode()
	if err != nil {
		return err
	}
	if err := w.WriteFile(filepath.Join(dir, fileEnrollment), b, 0o600); err != nil {
		return fmt.Errorf("sco: storing the enrollment: %w", err)
	}
	return nil
}

// knownHosts is the form that OpenSSH reads.
func (e *Enrollment) knownHosts() []byte {
	var out bytes.Buffer
	for _, a := range e.SSHAddresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			continue
		}
		for _, k := range e.HostKeys {
			fmt.Fprintf(&out, "[%s]:%s %s\n", host, port, authorizedKey(k))
		}
	}
	return out.Bytes()
}

func authorizedKey(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return b, err
}

func loadSSHKey(dir string) (ssh.Signer, error) {
	path := filepath.Join(dir, fileSSHKey)
	b, err := readFile(path, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("sco: reading the router's SSH key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("sco: reading the router's SSH key %q: %w", path, err)
	}
	return key, nil
}

// sshKey loads the router's SSH key, or makes one and stores it first. Of several
// programs that make one at the same time all get the same: a conductor may have
// pinned it already.
func sshKey(w durable.Writer, dir string) (ssh.Signer, error) {
	key, err := loadSSHKey(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("sco: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "mooring router")
	if err != nil {
		return nil, fmt.Errorf("sco: %w", err)
	}
	if err := storeNew(w, filepath.Join(dir, fileSSHKey), pem.EncodeToMemory(block)); err != nil {
		return nil, fmt.Errorf("sco: storing the router's SSH key: %w", err)
	}
	return loadSSHKey(dir)
}

// storeNew stores a file that has to be kept secret, unless there is one.
func storeNew(w durable.Writer, path string, data []byte) error {
	f, err := w.Create(path, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Abort()
		return err
	}
	err = f.CommitNew()
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		// A file system without hard links, FAT for one: there it is up to
		// the caller alone that one program onboards at a time.
		return w.WriteFile(path, data, 0o600)
	}
	return err
}
