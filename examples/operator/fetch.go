package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/mooringlib/mooring/autoinstall/operator"
)

// fetchResult is what fetch -json prints.
type fetchResult struct {
	Serial      string `json:"serial"`
	File        string `json:"file"`
	Fingerprint string `json:"fingerprint"`
	New         bool   `json:"new"`
}

func fetch(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("fetch", flag.ContinueOnError)
	url := fs.String("url", "", "`URL` of the vendor's directory, https only")
	ca := fs.String("ca", "", "`file` with the certificates, in PEM, that authenticate the directory")
	serial := fs.String("serial", "", "serial `number` of the device")
	dir := fs.String("dir", "", "`directory` that keeps certificates, as SERIAL.crt")
	replace := fs.String("replace", "", "take the key with this `fingerprint` in place of the one that is kept")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if err := parse(fs, "-url U -ca F -serial S -dir DIR", args, stdout, "url", "ca", "serial", "dir"); err != nil {
		return err
	}
	roots, err := readRoots(*ca)
	if err != nil {
		return err
	}
	o, err := operator.New(operator.Config{URL: *url, Roots: roots, Dir: *dir})
	if err != nil {
		return err
	}
	var d *operator.Device
	if *replace != "" {
		d, err = o.Replace(ctx, *serial, *replace)
	} else {
		d, err = o.Fetch(ctx, *serial)
	}
	if err != nil {
		return explain(err, o, *serial)
	}
	if *asJSON {
		return json.NewEncoder(stdout).Encode(fetchResult{d.Serial, d.File, d.Fingerprint(), d.New})
	}
	state := "unchanged"
	if d.New {
		state = "new"
	}
	_, err = fmt.Fprintf(stdout, "%s: %s, key %s\n", d.File, state, d.Fingerprint())
	return err
}

// explain adds to an error what to do next.
func explain(err error, o *operator.Operator, serial string) error {
	var changed *operator.ChangedError
	switch {
	case errors.As(err, &changed):
		return fmt.Errorf("%w; ask the vendor over another way which one is right, and only when it is the offered one run again with -replace %s",
			err, changed.Offered)
	case errors.Is(err, operator.ErrNotPublished):
		return fmt.Errorf("%w; check the serial number, or ask the vendor", err)
	case errors.Is(err, operator.ErrUnavailable):
		if kept, keptErr := o.Device(serial); keptErr == nil {
			return fmt.Errorf("%w; the certificate kept in %q can be used without the directory", err, kept.File)
		}
		return fmt.Errorf("%w; check -url and -ca, and run again", err)
	case errors.Is(err, operator.ErrKept):
		return fmt.Errorf("%w; restore the file from a backup, or remove it and fetch again", err)
	}
	return err
}

func readRoots(name string) (*x509.CertPool, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("-ca: %.80q holds no certificate in PEM", name)
	}
	return pool, nil
}
