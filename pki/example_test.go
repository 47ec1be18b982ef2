package pki_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
)

// Example goes from a private key to a certificate in force.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pki")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	// The authority is the customer's; here it is made for the example.
	ca := testca.Root(&testing.T{}, "Customer CA", time.Now())

	m, err := pki.New(pki.Config{Dir: dir, Names: []string{"peering"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Open(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := m.AddTrust(ctx, "customer", testca.PEM(ca.Cert), pki.Strict); err != nil {
		fmt.Println(err)
		return
	}
	if err := m.CreateKey(ctx, pki.KeyRequest{Name: "peering", Algorithm: "ECC", ECCCurve: "SECP256R1"}); err != nil {
		fmt.Println(err)
		return
	}
	csr, err := m.CreateRequest(ctx, pki.Request{Name: "peering", CommonName: "SSR_12345679", SubjectAltNames: []string{"router.example"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := testca.PEM(ca.Sign(&testing.T{}, csr)) // the authority's work
	report, err := m.Ingest(ctx, "peering", answer)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range report.Checks {
		fmt.Println(c.Name, c.Result)
	}

	// From now on TLS uses it, and checks who is at the other end.
	config := m.TLSConfig("peering", pki.PeerOptions{Trust: "customer"})
	fmt.Println(config.MinVersion == 0x0304)

	// go m.Run(ctx) watches it.
	fmt.Println(m.Show(ctx)[0].State)
	// Output:
	// private-key passed
	// validation passed
	// revocation skipped
	// true
	// valid
}
