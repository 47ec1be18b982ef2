// Package tpmretry has patience with a TPM that is too busy to begin a command.
package tpmretry

import (
	"encoding/binary"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Tries and First bound the patience: nine waits of 2 ms, 4 ms and so on, about
// one second in all. No context can end them earlier, because neither
// transport.TPM nor crypto.Signer has one.
const (
	Tries = 10
	First = 2 * time.Millisecond
)

// TPM sends a command again when the TPM says that it did not begin it because it
// was busy (TPM 2.0 Library, Part 2, section 6.6.3). Nothing has happened then: the
// nonces of the sessions are the same and the same bytes are still right. A
// kernel driver does this by itself; a bare connection does not.
type TPM struct{ transport.TPM }

// Send implements [transport.TPM].
func (p TPM) Send(command []byte) ([]byte, error) {
	wait := First
	for tries := 1; ; tries++ {
		rsp, err := p.TPM.Send(command)
		if err != nil || tries == Tries || !busy(rsp) {
			return rsp, err
		}
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
