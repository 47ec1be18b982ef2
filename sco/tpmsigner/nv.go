package tpmsigner

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

const (
	// Where the TCG's EK Credential Profile puts the certificates of the RSA
	// 2048 and P-256 endorsement keys, and from where on their issuers'.
	nvRSA   = tpm2.TPMHandle(0x01c00002)
	nvECC   = tpm2.TPMHandle(0x01c0000a)
	nvChain = tpm2.TPMHandle(0x01c00100)

	maxChain       = 3
	maxCertificate = 8 << 10
	nvChunk        = 512
)

// certificates reads the endorsement keys' certificates. A TPM without any is
// no error: the conductor decides whether it wants one.
func (s *Signer) certificates(ctx context.Context) ([][]byte, error) {
	var all [][]byte
	indices := []tpm2.TPMHandle{nvRSA, nvECC}
	for i := range maxChain {
		indices = append(indices, nvChain+tpm2.TPMHandle(i))
	}
	for _, index := range indices {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// An index that is not there, or that this TPM's maker uses in its own
		// way, is as good as no certificate. A TPM that has failed says so in
		// the commands that follow.
		if b, err := s.readNV(index); err == nil {
			all = append(all, splitCertificates(b)...)
		}
	}
	if len(all) > 5 {
		all = all[:5]
	}
	return all, nil
}

func (s *Signer) readNV(index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(s.cfg.TPM)
	if err != nil {
		return nil, err
	}
	info, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(info.DataSize)
	if size > maxCertificate {
		return nil, fmt.Errorf("%d bytes, the most is %d", size, maxCertificate)
	}
	out := make([]byte, 0, size)
	for len(out) < size {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       uint16(min(nvChunk, size-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(s.cfg.TPM)
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, errors.New("the TPM returned no data")
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out, nil
}

// splitCertificates takes DER certificates one after the other, and drops what
// follows them: some makers fill the rest of the index.
func splitCertificates(b []byte) [][]byte {
	var out [][]byte
	for len(b) > 4 && b[0] == 0x30 && b[1] == 0x82 && len(out) < maxChain+2 {
		n := 4 + int(b[2])<<8 + int(b[3])
		if n > len(b) {
			break
		}
		if _, err := x509.ParseCertificate(b[:n]); err != nil {
			break
		}
		out = append(out, b[:n:n])
		b = b[n:]
	}
	return out
}
