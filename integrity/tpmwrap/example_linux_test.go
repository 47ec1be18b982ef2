package tpmwrap_test

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
)

// A product protects its configuration with the TPM of the machine, under the
// boot state of the day on which it is enabled.
func Example() {
	wrapper, err := tpmwrap.NewSealed(tpmwrap.Config{
		Open: func(context.Context) (transport.TPMCloser, error) {
			return linuxtpm.Open("/dev/tpmrm0")
		},
		Policy: tpmwrap.Policy{PCRs: []uint{0, 2, 4, 7, 12}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var _ integrity.KeyWrapper = wrapper
	fmt.Println("ready for integrity.Config")
	// Output: ready for integrity.Config
}
