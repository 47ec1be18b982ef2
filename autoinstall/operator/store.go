package operator

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Device gives the device whose certificate is kept, without asking the directory. Errors: ErrSerial, ErrNotKept,
// ErrKept.
func (o *Operator) Device(serialNumber string) (*Device, error) {
	if err := checkSerial(serialNumber); err != nil {
		return nil, err
	}
	file := o.file(serialNumber)
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotKept, serialNumber)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKept, err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxCertificate+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKept, err)
	}
	cert, err := ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrKept, file, err)
	}
	return &Device{Serial: serialNumber, Certificate: cert, File: file}, nil
}

func (o *Operator) file(serialNumber string) string {
	return filepath.Join(o.cfg.Dir, serialNumber+".crt")
}

// keep begins to keep a certificate, or compares it with the one that is kept.
func (o *Operator) keep(serialNumber string, cert *x509.Certificate) (*Device, error) {
	kept, err := o.Device(serialNumber)
	if errors.Is(err, ErrNotKept) {
		if err := o.create(serialNumber, cert); err == nil {
			o.log.Info("keeping the certificate of a device", "serial", serialNumber, "fingerprint", Fingerprint(cert))
			return &Device{Serial: serialNumber, Certificate: cert, File: o.file(serialNumber), New: true}, nil
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("operator: keeping the certificate: %w", err)
		}
		// Another process was faster; its certificate is the one that is kept now.
		kept, err = o.Device(serialNumber)
	}
	if err != nil {
		return nil, err
	}
	if kept.Fingerprint() != Fingerprint(cert) {
		o.log.Warn("the directory offers another key for a device", "serial", serialNumber, "kept", kept.Fingerprint(),
			"offered", Fingerprint(cert))
		return nil, &ChangedError{Serial: serialNumber, Kept: kept.Fingerprint(), Offered: Fingerprint(cert)}
	}
	return kept, nil
}

const (
	// scratchPrefix marks the directories in which new files are made.
	scratchPrefix = ".fetch-"
	// tempPrefix marks the files of package durable that are not in place yet.
	tempPrefix = ".durable-"
)

// sweep removes what killed processes left. Other processes may work in the same directory at this moment, so only what
// is old goes. That it fails keeps nobody from fetching: the next call tries again.
func (o *Operator) sweep() {
	entries, err := os.ReadDir(o.cfg.Dir)
	if err != nil {
		o.log.Warn("cannot look for leftovers", "dir", o.cfg.Dir, "error", err)
		return
	}
	before := time.Now().Add(-leftoverAge)
	for _, e := range entries {
		name := e.Name()
		scratch := e.IsDir() && strings.HasPrefix(name, scratchPrefix)
		temp := e.Type().IsRegular() && strings.HasPrefix(name, tempPrefix)
		if !scratch && !temp {
			continue
		}
		if info, err := e.Info(); err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(o.cfg.Dir, name)); err != nil {
			o.log.Warn("cannot remove a leftover", "name", name, "error", err)
		}
	}
}

// create writes the file unless it is there. A link is made only when its name is free, so that of two processes that
// fetch at the same time one wins and the other compares.
func (o *Operator) create(serialNumber string, cert *x509.Certificate) error {
	if err := o.cfg.writer.MkdirAll(o.cfg.Dir, 0o755); err != nil {
		return err
	}
	o.sweep()
	scratch, err := os.MkdirTemp(o.cfg.Dir, scratchPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	whole := filepath.Join(scratch, "crt")
	if err := o.cfg.writer.WriteFile(whole, encode(cert), 0o644); err != nil {
		return err
	}
	if err := os.Link(whole, o.file(serialNumber)); err != nil {
		return err
	}
	return o.cfg.writer.SyncDir(o.cfg.Dir)
}

func (o *Operator) replace(serialNumber string, cert *x509.Certificate) (*Device, error) {
	if err := o.cfg.writer.MkdirAll(o.cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("operator: replacing the certificate: %w", err)
	}
	o.sweep()
	if err := o.cfg.writer.WriteFile(o.file(serialNumber), encode(cert), 0o644); err != nil {
		return nil, fmt.Errorf("operator: replacing the certificate: %w", err)
	}
	o.log.Warn("replaced the certificate of a device", "serial", serialNumber, "fingerprint", Fingerprint(cert))
	return &Device{Serial: serialNumber, Certificate: cert, File: o.file(serialNumber), New: true}, nil
}

func encode(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
