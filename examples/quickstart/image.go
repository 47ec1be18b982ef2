package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/download/source"
)

const (
	imageVersion = "7.1.0"
	imageSize    = 6 << 20
	cutEvery     = 2 << 20
)

// fetchImage downloads a signed software image over a link that breaks every two
// megabytes.
func fetchImage(ctx context.Context, w *world) (facts, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	image := make([]byte, imageSize)
	if _, err := rand.Read(image); err != nil {
		return nil, err
	}
	original := filepath.Join(w.dir, imageVersion+".img")
	if err := os.WriteFile(original, image, 0o600); err != nil {
		return nil, err
	}
	folder := filepath.Join(w.dir, "repository")
	if _, err := repo.Make(ctx, repo.MakeConfig{Dir: folder, Key: private}, original); err != nil {
		return nil, err
	}
	server, err := listen()
	if err != nil {
		return nil, err
	}
	link := &badLink{files: http.FileServer(http.Dir(folder))}
	w.serveHTTP(server, link)

	fetcher, err := source.NewHTTP(source.HTTPConfig{URL: "http://" + server.Addr().String()})
	if err != nil {
		return nil, err
	}
	pool, err := download.NewPool(download.InternetOnly, download.Source{Name: "repository", Kind: download.KindArtifactory, Fetcher: fetcher})
	if err != nil {
		return nil, err
	}
	trust, err := repo.NewVerifier(public)
	if err != nil {
		return nil, err
	}
	downloader, err := download.New(download.Config{
		Pool: pool, Trust: trust, StateDir: filepath.Join(w.dir, "downloads"), Alarms: w.events, Events: w.events,
	})
	if err != nil {
		return nil, err
	}
	out := filepath.Join(w.dir, "image")
	status, err := downloader.Download(ctx, download.Request{Version: imageVersion, Out: out})
	if err != nil {
		return nil, err
	}
	got, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	if link.cuts.Load() == 0 {
		return nil, errors.New("the link did not break, so nothing was shown")
	}
	if !bytes.Equal(got, image) {
		return nil, errors.New("the image is not what was published")
	}
	return facts{
		{"image", fmt.Sprintf("%s, %d bytes", status.Version, status.Size)},
		{"link broke", fmt.Sprintf("%d times", link.cuts.Load())},
		{"sent twice", fmt.Sprintf("%.1f %%", 100*float64(status.Wasted)/float64(status.Size))},
		{"verified", "signature, and every chunk on arrival"},
	}, nil
}

// badLink breaks whenever it has carried a number of bytes, whichever answer is
// on the way then.
type badLink struct {
	files   http.Handler
	carried atomic.Int64
	cuts    atomic.Int64
}

func (l *badLink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.files.ServeHTTP(&cutWriter{ResponseWriter: w, link: l}, r)
}

type cutWriter struct {
	http.ResponseWriter
	link *badLink
}

func (c *cutWriter) Write(p []byte) (int, error) {
	after := c.link.carried.Add(int64(len(p)))
	if before := after - int64(len(p)); before/cutEvery != after/cutEvery {
		c.link.cuts.Add(1)
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}
