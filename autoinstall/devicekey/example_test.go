package devicekey_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/mooringlib/mooring/autoinstall/devicekey"
)

// In the factory a device makes its key. The certificate goes to the vendor's
// directory.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := devicekey.Open(devicekey.Config{Dir: dir, Serial: "SN19842256"})
	if err != nil {
		log.Fatal(err)
	}
	cert, err := store.Generate(context.Background(), devicekey.Spec{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cert.Subject, cert.PublicKeyAlgorithm)
	// Output: CN=SN19842256 ECDSA
}
