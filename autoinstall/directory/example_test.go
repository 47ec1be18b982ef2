package directory_test

import (
	"crypto/tls"
	"log"
	"net/http"
	"time"

	"github.com/mooringlib/mooring/autoinstall/directory"
)

// A directory behind HTTPS. The hash of the token was kept when it was made.
func Example() {
	var hashOfToken [32]byte
	var certificate tls.Certificate

	store, err := directory.OpenStore("/var/lib/vendordir")
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	handler, err := directory.New(directory.Config{
		Store:  store,
		Tokens: []directory.Token{{Name: "factory-2", SHA256: hashOfToken}},
	})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Addr: ":443", Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
	}
	log.Print(server.ListenAndServeTLS("", ""))
}
