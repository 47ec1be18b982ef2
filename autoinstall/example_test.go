package autoinstall_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/autoinstall/dhcp"
)

// A router without a configuration looks for one. Everything comes from DHCP;
// only encrypted configurations that the owner signed are taken.
func Example() {
	owners := x509.NewCertPool() // the owner's CA, from the device's own trust store

	keys, err := devicekey.Open(devicekey.Config{Dir: "/var/lib/router/keys", Serial: "SN19842256"})
	if err != nil {
		log.Fatal(err)
	}
	deviceKeys, err := keys.Keys()
	if err != nil {
		log.Fatal(err)
	}
	link, err := dhcp.New(dhcp.Config{Interface: "eth0", Serial: "SN19842256", V6: true})
	if err != nil {
		log.Fatal(err)
	}
	fetcher, err := autoinstall.NewFetcher(autoinstall.FetchConfig{})
	if err != nil {
		log.Fatal(err)
	}
	device, err := autoinstall.New(autoinstall.Config{
		Serial:        "SN19842256",
		Dir:           "/var/lib/router/autoinstall",
		Installer:     autoinstall.NewFileInstaller("/etc/router/startup.cfg"),
		Discoverer:    link,
		Fetcher:       fetcher,
		Keys:          deviceKeys,
		EncryptedOnly: true,
		Owner:         &autoinstall.OwnerPolicy{Roots: owners, RequireSerial: true, RequireCounter: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := device.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// A reinstallation loads a file on a running device. What is refused changes
// nothing.
func ExampleDevice_Load() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	device, err := autoinstall.New(autoinstall.Config{
		Serial: "SN19842256", Dir: dir, EncryptedOnly: true,
		Installer: autoinstall.NewFileInstaller(filepath.Join(dir, "startup.cfg")),
	})
	if err != nil {
		log.Fatal(err)
	}
	err = device.Load(context.Background(), []byte("hostname in the clear\n"), autoinstall.Load{Source: "usb/SN19842256.cfg"})
	fmt.Println(errors.Is(err, autoinstall.ErrRefused), errors.Is(err, autoinstall.ErrPlain))
	// Output: true true
}
