package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/peer"
	"github.com/mooringlib/mooring/download/repo"
)

func runGet(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("get", "-config F -version V -out FILE [-sequenced -role first|second] [-json] [-lab]", stdout)
	var c common
	c.register(fs)
	version := fs.String("version", "", "`version` to fetch (required)")
	out := fs.String("out", "", "`file` to make (required)")
	sequenced := fs.Bool("sequenced", false, "download in sequence with the HA peer")
	role := fs.String("role", "", "this node's `part` in the sequence: first or second")
	asJSON := fs.Bool("json", false, "print events as JSON, one a line")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	req := download.Request{Version: *version, Out: *out}
	switch {
	case *version == "":
		return usagef("get: -version is missing; see what there is with: imageget versions -config %s", c.config)
	case *out == "":
		return usagef("get: -out is missing: name the file to make")
	case *sequenced && *role != "first" && *role != "second":
		return usagef("get: -role %.40q: want first or second with -sequenced", *role)
	case !*sequenced && *role != "":
		return usagef("get: -role needs -sequenced")
	case *sequenced:
		req.Sequenced = download.Role(*role)
	}
	if err := repo.CheckVersion(*version); err != nil {
		return usageError{err}
	}
	return fetch(ctx, c, req, newPrinter(stdout, *asJSON))
}

// fetch downloads and tells how it goes.
func fetch(ctx context.Context, c common, req download.Request, p *printer) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	cfg.Progress = p.progress
	d, err := download.New(cfg)
	if err != nil {
		return usageError{err}
	}
	st, err := d.Download(ctx, req)
	p.end(st, err)
	var space *download.SpaceError
	switch {
	case errors.Is(err, download.ErrInUse):
		return fmt.Errorf("%w; look at it with: imageget show -config %s", err, c.config)
	case errors.As(err, &space):
		return fmt.Errorf("%w; the download is paused: make room, then run: imageget resume -config %s -version %s", err, c.config, req.Version)
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("stopped; run the same command again to go on")
	}
	return err
}

func runResume(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("resume", "-config F -version V [-json] [-lab]", stdout)
	var c common
	c.register(fs)
	version := fs.String("version", "", "`version` whose download goes on (required)")
	asJSON := fs.Bool("json", false, "print events as JSON, one a line")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	store := download.NewStore(cfg.StateDir)
	st, damaged := store.Show(*version)
	if damaged != nil && !errors.Is(damaged, download.ErrDamagedStatus) {
		return damaged
	}
	running, err := store.Resume(*version)
	if err != nil {
		return err
	}
	switch {
	case running && damaged != nil:
		fmt.Fprintf(stdout, "%s goes on\n", *version)
		return nil
	case damaged != nil:
		return fmt.Errorf("%w; the pause is gone, go on with: imageget get -config %s -version %s -out FILE", damaged, c.config, *version)
	case st.State == download.StateComplete:
		fmt.Fprintf(stdout, "%s is complete: %s\n", st.Version, st.Out)
		return nil
	case running:
		fmt.Fprintf(stdout, "%s goes on\n", st.Version)
		return nil
	}
	// Nobody is there to go on, so this process does.
	return fetch(ctx, c, download.Request{Version: st.Version, Out: st.Out, Sequenced: st.Sequenced}, newPrinter(stdout, *asJSON))
}

func runPause(args []string, stdout io.Writer) error {
	fs := newFlags("pause", "-config F -version V [-lab]", stdout)
	var c common
	c.register(fs)
	version := fs.String("version", "", "`version` whose download stands still (required)")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	store := download.NewStore(cfg.StateDir)
	st, err := store.Show(*version)
	if err != nil && !errors.Is(err, download.ErrDamagedStatus) {
		return err
	}
	if st.State == download.StateComplete || st.State == download.StateFailed {
		return fmt.Errorf("%s is %s: there is nothing to pause", st.Version, st.State)
	}
	if err := store.Pause(*version, "by the operator"); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s is paused; go on with: imageget resume -config %s -version %s\n", *version, c.config, *version)
	return nil
}

func runShow(args []string, stdout io.Writer) error {
	fs := newFlags("show", "-config F [-version V] [-json] [-lab]", stdout)
	var c common
	c.register(fs)
	version := fs.String("version", "", "only this `version`")
	asJSON := fs.Bool("json", false, "print a JSON array")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	store := download.NewStore(cfg.StateDir)
	var list []download.Status
	if *version != "" {
		st, err := store.Show(*version)
		if err != nil {
			return err
		}
		list = append(list, st)
	} else {
		// One that cannot be read does not hide the others.
		list, err = store.List()
	}
	if *asJSON {
		return errors.Join(writeJSON(stdout, orEmpty(list)), err)
	}
	if len(list) == 0 && err == nil {
		fmt.Fprintln(stdout, "no downloads")
	}
	for _, st := range list {
		fmt.Fprintln(stdout, line(st))
		for _, s := range st.Sources {
			fmt.Fprintf(stdout, "  %-12s %-12s %s%s\n", s.Name, s.State, bytesText(s.Received), withColon(s.Error))
		}
	}
	return err
}

func runVersions(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("versions", "-config F [-json] [-lab]", stdout)
	var c common
	c.register(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	d, err := download.New(cfg)
	if err != nil {
		return usageError{err}
	}
	list, problems, err := d.Versions(ctx)
	if err != nil {
		return err
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	if *asJSON {
		return writeJSON(stdout, map[string]any{"versions": orEmpty(list), "problems": texts})
	}
	for _, l := range list {
		fmt.Fprintf(stdout, "%s  %s  sha256 %s\n", l.Version, bytesText(l.Size), l.SHA256)
		for _, s := range l.Sources {
			fmt.Fprintf(stdout, "  %-12s %s%s\n", s.Source, s.State, withColon(s.Problem))
		}
	}
	for _, t := range texts {
		fmt.Fprintf(stderr, "imageget: %s\n", t)
	}
	if len(list) == 0 && len(texts) > 0 {
		return errors.New("no source has anything to offer")
	}
	return nil
}

func runServe(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("serve", "-dir DIR -listen ADDR [-max-bandwidth BITS]", stdout)
	dir := fs.String("dir", "", "`folder` with fetched images, a state directory, or a repository (required)")
	listen := fs.String("listen", "", "`address` to listen on, such as 169.254.1.1:8080 (required)")
	limit := fs.String("max-bandwidth", "unlimited", "limit in `bits` per second")
	if err := parse(fs, args, false); err != nil {
		return err
	}
	if *dir == "" || *listen == "" {
		return usagef("serve: -dir and -listen are needed")
	}
	bits, err := bandwidth(*limit)
	if err != nil {
		return usageError{err}
	}
	if info, err := os.Stat(*dir); err != nil || !info.IsDir() {
		return usagef("serve: -dir %q is not a folder", *dir)
	}
	h, err := peer.New(peer.Config{Dir: *dir, MaxBandwidth: bits})
	if err != nil {
		return usageError{err}
	}
	l, congestion, err := peer.Listen(ctx, *listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "serving %s on http://%s/ (congestion control: %s)\n", *dir, l.Addr(), orUnknown(congestion))
	return serve(ctx, l, h)
}

// serve runs until ctx ends, and lets answers that run finish for a moment.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.Shutdown(grace); err != nil {
		_ = s.Close()
	}
	<-done
	return nil
}

func runRepoMake(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("repo make", "-dir DIR -key KEY [-digest sha256|sha512-256] [-chunk-size BYTES] [-valid DURATION] IMAGE...", stdout)
	dir := fs.String("dir", "", "`folder` of the repository (required)")
	key := fs.String("key", "", "PEM private key `file`, as openssl genpkey makes it (required)")
	digest := fs.String("digest", "sha256", "`algorithm` of the chunk digests; sha512-256 is faster on routers without SHA instructions")
	chunk := fs.Int64("chunk-size", 0, "`bytes` of a chunk (default by the image's size)")
	valid := fs.Duration("valid", 365*24*time.Hour, "how long the manifests are good for")
	if err := parse(fs, args, true); err != nil {
		return err
	}
	if *dir == "" || *key == "" || fs.NArg() == 0 {
		return usagef("repo make: -dir, -key and at least one image are needed")
	}
	data, err := os.ReadFile(*key)
	if err != nil {
		return usageError{err}
	}
	signer, err := repo.ParsePrivateKey(data)
	if err != nil {
		return usagef("-key %q: %w", *key, err)
	}
	made, err := repo.Make(ctx, repo.MakeConfig{Dir: *dir, Key: signer, Algorithm: repo.Algorithm(*digest), ChunkSize: *chunk, Validity: *valid}, fs.Args()...)
	if err != nil {
		return err
	}
	for _, m := range made {
		fmt.Fprintf(stdout, "%s  %s  sha256 %s  counter %d  expires %s\n", m.Version, bytesText(m.Size), m.SHA256, m.Counter, m.Expires.Format(time.RFC3339))
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func withColon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}
