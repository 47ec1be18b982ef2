package tpmsigner

import (
	"encoding/binary"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	retryFirst = 2 * time.Millisecond
	retryTries = 10
)

// patient sends a command again when the TPM says that it was too busy to begin
// it (TPM 2.0 part 2, section 6.6.3). The kernel's driver does so by itself, a
// bare connection does not.
type patient struct{ tpm transport.TPM }

func (p patient) Send(command []byte) ([]byte, error) {
	wait := retryFirst
	for tries := 1; ; tries++ {
		rsp, err := p.tpm.Send(command)
		if err != nil || tries == retryTries || !busy(rsp) {
			return rsp, err
		}
		// The waits add up to two seconds at most; transport.TPM has no
		// context to end them earlier.
		time.Sleep(wait)
		wait *= 2
	}
}

// busy looks at the response code, behind a tag and a size.
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
