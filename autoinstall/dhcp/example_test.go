package dhcp_test

import (
	"context"
	"fmt"
	"log"

	"github.com/mooringlib/mooring/autoinstall/dhcp"
)

func Example() {
	client, err := dhcp.New(dhcp.Config{Interface: "eth0", Serial: "SN19842256", VendorClass: "example-router"})
	if err != nil {
		log.Fatal(err)
	}
	location, err := client.Discover(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = location.Release(context.Background()) }()
	fmt.Println(location.URLs)
}
