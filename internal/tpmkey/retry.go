package tpmkey

import (
	"encoding/binary"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// patient sends a command again when the TPM says that it did not begin it
// because it was busy (TPM 2.0 part 2, 6.6.3). Nothing has happened then: the
// nonces of the sessions are the same and the same bytes are still right. A
// kernel driver does this by itself; a bare connection does not.
type patient struct{ tpm transport.TPM }

func (p patient) Send(command []byte) ([]byte, error) {
	wait := retryFirst
	for tries := 1; ; tries++ {
		rsp, err := p.tpm.Send(command)
		if err != nil || tries == retryTries || !busy(rsp) {
			return rsp, err
		}
		// crypto.Signer has no context; retryTries bounds the whole to
		// about a second.
		time.Sleep(wait)
		wait *= 2
	}
}

// busy looks at the response code, which stands after a tag and a size.
func busy(rsp []byte) bool {
	if len(rsp) < 10 {
		return false
	}
	switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		return true
	}
	return false
}
