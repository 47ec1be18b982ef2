package tftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mooringlib/mooring/autoinstall/tftp"
)

func Example() {
	client, err := tftp.New(tftp.Config{MaxSize: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	var file bytes.Buffer
	_, err = client.Get(context.Background(), netip.MustParseAddrPort("192.0.2.1:69"), "SN19842256.enc", &file)
	if errors.Is(err, tftp.ErrNotFound) {
		fmt.Println("not there yet")
	}
}
