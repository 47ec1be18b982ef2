package operator_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"os"

	"github.com/mooringlib/mooring/autoinstall/operator"
)

// Prepare the installation of a device from the vendor's directory and a configuration.
func Example() {
	vendor, err := os.ReadFile("vendor.pem")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(vendor)
	o, err := operator.New(operator.Config{URL: "https://keyserv.example.net", Roots: roots, Dir: "devices"})
	if err != nil {
		log.Fatal(err)
	}
	device, err := o.Fetch(context.Background(), "SN19842256")
	if err != nil {
		log.Fatal(err)
	}
	configuration, err := os.ReadFile("SN19842256.cfg")
	if err != nil {
		log.Fatal(err)
	}
	message, err := operator.Encrypt(configuration, operator.EncryptConfig{Certificate: device.Certificate})
	if err != nil {
		log.Fatal(err)
	}
	if err := operator.Publish("/srv/tftp/SN19842256.enc", message); err != nil {
		log.Fatal(err)
	}
	fmt.Println("encrypted to key", device.Fingerprint())
}
