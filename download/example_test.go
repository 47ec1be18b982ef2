package download_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

// A repository with one image, and a router that fetches it.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// The vendor signs an image into a folder; any static HTTP server serves it.
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		log.Fatal(err)
	}
	image := filepath.Join(dir, "SSR-7.1.0.iso")
	if err := os.WriteFile(image, make([]byte, 3<<20), 0o600); err != nil {
		log.Fatal(err)
	}
	if _, err := repo.Make(ctx, repo.MakeConfig{Dir: filepath.Join(dir, "repo"), Key: private}, image); err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(dir, "repo"))))
	defer server.Close()

	// The router knows the sources and the vendor's public key.
	trust, err := repo.NewVerifier(public)
	if err != nil {
		log.Fatal(err)
	}
	conductor, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	pool, err := download.NewPool(download.PreferConductor,
		download.Source{Name: "conductor-1", Kind: download.KindConductor1, Fetcher: conductor})
	if err != nil {
		log.Fatal(err)
	}
	d, err := download.New(download.Config{Pool: pool, Trust: trust, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		log.Fatal(err)
	}
	st, err := d.Download(ctx, download.Request{Version: "SSR-7.1.0", Out: filepath.Join(dir, "image.iso")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.State, st.Verified)
	// Output: complete 3145728
}
