// Package pemfile reads files of bounded size, and the certificates in them, for
// the reference programs.
package pemfile

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
)

// Read reads a whole file of at most limit bytes.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%q is larger than %d bytes", path, limit)
	}
	return b, err
}

// Certificates reads the certificates of a PEM file of at most limit bytes, in
// their order and at least one. Other blocks and text around them are passed
// over.
func Certificates(path string, limit int64) ([]*x509.Certificate, error) {
	b, err := Read(path, limit)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%q: certificate %d: %w", path, len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q holds no PEM certificate", path)
	}
	return out, nil
}
