package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/autoinstall/operator"
)

const firstConfiguration = "hostname branch-7\ninterface wan0 dhcp\n"

// install is secure device install (RFC 8886): the operator encrypts the first
// configuration to a key that never leaves the router's TPM, and the router
// finds it on a server that nobody has to trust.
func install(ctx context.Context, w *world) (facts, error) {
	store, err := devicekey.Open(devicekey.Config{Dir: filepath.Join(w.dir, "device"), Serial: assetID, TPM: w.tpm})
	if err != nil {
		return nil, err
	}
	cert, err := store.Generate(ctx, devicekey.Spec{Place: devicekey.InTPM})
	if err != nil {
		return nil, err
	}
	message, err := operator.Encrypt([]byte(firstConfiguration), operator.EncryptConfig{Certificate: cert})
	if err != nil {
		return nil, err
	}
	server, err := listen()
	if err != nil {
		return nil, err
	}
	w.serveHTTP(server, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = rw.Write(message) }))

	keys, err := store.Keys()
	if err != nil {
		return nil, err
	}
	fetcher, err := autoinstall.NewFetcher(autoinstall.FetchConfig{})
	if err != nil {
		return nil, err
	}
	installed := filepath.Join(w.dir, "device", "configuration")
	device, err := autoinstall.New(autoinstall.Config{
		Serial: assetID, Dir: filepath.Join(w.dir, "device", "state"),
		Installer:  autoinstall.NewFileInstaller(installed),
		Discoverer: autoinstall.Static{"http://" + server.Addr().String() + "/" + assetID + ".enc"},
		Fetcher:    fetcher, Keys: keys, EncryptedOnly: true,
		Alarms: w.events, Events: w.events,
	})
	if err != nil {
		return nil, err
	}
	if err := device.Once(ctx); err != nil {
		return nil, err
	}
	got, err := os.ReadFile(installed)
	if err != nil {
		return nil, err
	}
	if string(got) != firstConfiguration {
		return nil, errors.New("another configuration arrived than was sent")
	}
	return facts{
		{"encrypted to", "a key in the TPM, fingerprint " + short(operator.Fingerprint(cert), 16)},
		{"on the wire", fmt.Sprintf("%d bytes that only this router can read", len(message))},
		{"installed", strings.ReplaceAll(strings.TrimSpace(string(got)), "\n", "; ")},
	}, nil
}
