package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/tpmdev"
)

const (
	// profileDir holds what this program writes itself. The library sweeps the
	// temporary files of the device's folder under its lock, and these are
	// written without it.
	profileDir = "profile"
	deviceFile = "device.json"
	ownerFile  = "owner-roots.pem"
	configFile = "startup.cfg"
	maxRoots   = 1 << 20
)

// profile is device.json.
type profile struct {
	Serial            string `json:"serial"`
	TPM               string `json:"tpm,omitempty"`
	EncryptedOnly     bool   `json:"encrypted_only,omitempty"`
	AuthenticatedOnly bool   `json:"authenticated_only,omitempty"`
	OwnerRoots        bool   `json:"owner_roots,omitempty"`
}

func profilePath(dir, name string) string { return filepath.Join(dir, profileDir, name) }

// loadProfile reads device.json. serial, when not empty, has to be the one in it.
func loadProfile(dir, serial string) (profile, error) {
	b, err := os.ReadFile(profilePath(dir, deviceFile))
	if errors.Is(err, fs.ErrNotExist) {
		if serial == "" {
			return profile{}, fmt.Errorf("%q is not the folder of a device: make one with autoinstalld keygen", dir)
		}
		return profile{Serial: serial}, nil
	}
	if err != nil {
		return profile{}, err
	}
	var p profile
	if err := json.Unmarshal(b, &p); err != nil {
		return profile{}, fmt.Errorf("%s in %q is damaged: %w", deviceFile, dir, err)
	}
	if serial != "" && p.Serial != serial {
		return profile{}, fmt.Errorf("%q belongs to the device %q, not to %q", dir, p.Serial, serial)
	}
	return p, nil
}

func (p profile) save(dir string, disk durable.Writer) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return writeProfile(dir, deviceFile, append(b, '\n'), disk)
}

// writeProfile writes a file of the folder of this program.
func writeProfile(dir, name string, b []byte, disk durable.Writer) error {
	if err := disk.MkdirAll(filepath.Join(dir, profileDir), 0o700); err != nil {
		return err
	}
	return disk.WriteFile(profilePath(dir, name), b, 0o600)
}

// publicFile writes a file that people take from the device's folder. It comes
// there by one rename, so there is no temporary file that could be swept.
func publicFile(dir, name string, b []byte, disk durable.Writer) error {
	if err := disk.MkdirAll(filepath.Join(dir, profileDir), 0o700); err != nil {
		return err
	}
	if err := disk.WriteFile(profilePath(dir, name), b, 0o644); err != nil {
		return err
	}
	return disk.Rename(profilePath(dir, name), filepath.Join(dir, name))
}

// keyStore opens the keys of a device; the caller closes the TPM.
func keyStore(dir string, p profile) (*devicekey.Store, io.Closer, error) {
	cfg := devicekey.Config{Dir: filepath.Join(dir, "keys"), Serial: p.Serial}
	var tpm transport.TPMCloser
	closer := io.Closer(io.NopCloser(nil))
	if p.TPM != "" {
		var err error
		if tpm, err = tpmdev.Open(p.TPM, filepath.Join(dir, "tpm")); err != nil {
			return nil, nil, err
		}
		cfg.TPM, closer = tpm, tpm
	}
	store, err := devicekey.Open(cfg)
	if err != nil {
		_ = closer.Close()
		return nil, nil, err
	}
	return store, closer, nil
}

// policy is what the flags of run and load say about acceptable files.
type policy struct {
	encryptedOnly     bool
	authenticatedOnly bool // includes encryptedOnly
	ownerRoots        string
	sane              string
	raw               bool
}

// config puts together what all commands with a Device need.
func config(dir string, p profile, pol policy) (autoinstall.Config, io.Closer, error) {
	cfg := autoinstall.Config{
		Serial: p.Serial, Dir: dir, UnixNewlines: !pol.raw,
		EncryptedOnly: pol.encryptedOnly, RequireAuthenticated: pol.authenticatedOnly,
		Installer:  autoinstall.NewFileInstaller(filepath.Join(dir, configFile)),
		ClockFloor: buildTime(),
	}
	if pol.ownerRoots != "" {
		roots, _, err := readRoots(pol.ownerRoots)
		if err != nil {
			return cfg, nil, err
		}
		cfg.Owner = &autoinstall.OwnerPolicy{Roots: roots}
	}
	if pol.sane != "" {
		cfg.Sane = func(ctx context.Context, content []byte) error { return askProgram(ctx, pol.sane, content) }
	}
	store, closer, err := keyStore(dir, p)
	if err != nil {
		return cfg, nil, err
	}
	cfg.Keys, err = store.Keys()
	if errors.Is(err, devicekey.ErrNoKey) && !pol.encryptedOnly && !pol.authenticatedOnly {
		err = nil // Plain files need no key, as with RFC 8886.
	}
	if err != nil {
		_ = closer.Close()
		if errors.Is(err, devicekey.ErrNoKey) {
			err = fmt.Errorf("%w: make one with autoinstalld keygen", err)
		}
		return cfg, nil, err
	}
	return cfg, closer, nil
}

// buildTime is when the program was built, as near as it is known: a time that
// is certainly past.
func buildTime() time.Time {
	path, err := os.Executable()
	if err != nil {
		return time.Time{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func readRoots(path string) (*x509.CertPool, []byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.Size() > maxRoots {
		return nil, nil, fmt.Errorf("%q is larger than %d bytes", path, maxRoots)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, nil, fmt.Errorf("%q holds no certificate in PEM", path)
	}
	return pool, b, nil
}

// askProgram gives the configuration to a program on standard input; it refuses
// by ending with another status than 0.
func askProgram(ctx context.Context, program string, content []byte) error {
	cmd := exec.CommandContext(ctx, program)
	cmd.Stdin = bytes.NewReader(content)
	var says bytes.Buffer
	cmd.Stderr = &limited{w: &says, left: 200}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%q: %w: %.200q", program, err, strings.TrimSpace(says.String()))
	}
	return nil
}

// limited keeps the beginning of what is written.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
