package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/devicekey"
	"github.com/mooringlib/mooring/autoinstall/dhcp"
	"github.com/mooringlib/mooring/internal/durable"
)

// onceTimeout is how long "run -once" listens for DHCP servers.
const onceTimeout = 30 * time.Second

// vendorClass is option 60 of our DHCP messages.
const vendorClass = "mooring-autoinstall"

type runFlags struct {
	policy
	serial, iface, server, file, ca string
	once, asJSON                    bool
}

func policyFlags(fs *flag.FlagSet, p *policy) {
	fs.BoolVar(&p.encryptedOnly, "encrypted-only", false, "refuse files that are not encrypted")
	fs.BoolVar(&p.authenticatedOnly, "authenticated-only", false, "refuse files whose encryption would not show a change: only AES-GCM is taken, not AES-CBC (includes -encrypted-only)")
	fs.StringVar(&p.ownerRoots, "owner-roots", "", "PEM `file` with the owners' certificates: only configurations that one of them signed are taken")
	fs.StringVar(&p.sane, "sane", "", "`program` that gets the configuration on standard input and refuses it by failing")
	fs.BoolVar(&p.raw, "raw", false, "keep CR LF, which openssl writes without -binary, as it is")
}

func runRun(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs, dir := newFlags("run", stdout)
	var f runFlags
	policyFlags(fs, &f.policy)
	fs.StringVar(&f.serial, "serial", "", "`serial number` of the device (required)")
	fs.StringVar(&f.iface, "interface", "", "`link` to ask DHCP servers on, such as eth0")
	fs.StringVar(&f.server, "server", "", "`address` of a TFTP server, HOST or HOST:PORT, or URL of a folder (tftp, http, https)")
	fs.StringVar(&f.file, "file", "", "`name` of the file on -server (default SERIAL.enc, then SERIAL.cfg)")
	fs.BoolVar(&f.once, "once", false, "make one attempt and end")
	fs.StringVar(&f.ca, "ca", "", "PEM `file` with the certificates that https servers are checked with (default: the system's)")
	fs.BoolVar(&f.asJSON, "json", false, "print the status as JSON at the end")
	if err := parse(fs, args, dir, 0); err != nil {
		return err
	}
	if err := autoinstall.CheckSerial(f.serial); err != nil {
		return usagef("-serial: %w", err)
	}
	if (f.iface == "") == (f.server == "") {
		return usagef("give either -interface, for DHCP, or -server")
	}
	p, err := loadProfile(*dir, f.serial)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	cfg, closer, err := config(*dir, p, f.policy)
	if err != nil {
		return err
	}
	defer closer.Close()
	cfg.Logger = logger
	if err := f.network(&cfg); err != nil {
		return err
	}
	device, err := autoinstall.New(cfg)
	if err != nil {
		return err
	}
	if err := rememberPolicy(*dir, p, f.policy, durable.Writer{}); err != nil {
		return err
	}
	if f.once {
		err = device.Once(ctx)
	} else {
		err = device.Run(ctx)
	}
	if f.asJSON {
		return errors.Join(err, printStatus(ctx, device, stdout, true))
	}
	if err == nil {
		fmt.Fprintf(stdout, "installed: %s\n", filepath.Join(*dir, configFile))
	}
	return err
}

// withoutTime leaves the time to whoever keeps the log.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// network says where to look.
func (f *runFlags) network(cfg *autoinstall.Config) error {
	fetch := autoinstall.FetchConfig{ClockFloor: buildTime()}
	if f.ca != "" {
		roots, _, err := readRoots(f.ca)
		if err != nil {
			return err
		}
		fetch.TLS = &tls.Config{RootCAs: roots}
	}
	fetcher, err := autoinstall.NewFetcher(fetch)
	if err != nil {
		return err
	}
	cfg.Fetcher = fetcher
	if f.iface != "" {
		c := dhcp.Config{Interface: f.iface, Serial: f.serial, VendorClass: vendorClass, V6: true, Logger: cfg.Logger}
		if f.once {
			c.Timeout = onceTimeout
		}
		client, err := dhcp.New(c)
		if err != nil {
			return usageError{err}
		}
		cfg.Discoverer = client
		return nil
	}
	names := autoinstall.FileNames(f.serial)
	if f.file != "" {
		names = []string{f.file}
	}
	urls, err := autoinstall.ServerURLs(f.server, names...)
	if err != nil {
		return usageError{err}
	}
	cfg.Discoverer = autoinstall.Static(urls)
	return nil
}

// rememberPolicy keeps the policy, so that the next load has the same.
func rememberPolicy(dir string, p profile, pol policy, disk durable.Writer) error {
	if pol.ownerRoots != "" {
		_, b, err := readRoots(pol.ownerRoots)
		if err != nil {
			return err
		}
		if err := writeProfile(dir, ownerFile, b, disk); err != nil {
			return err
		}
	}
	p.EncryptedOnly, p.AuthenticatedOnly, p.OwnerRoots = pol.encryptedOnly, pol.authenticatedOnly, pol.ownerRoots != ""
	return p.save(dir, disk)
}

func runLoad(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs, dir := newFlags("load", stdout)
	var pol policy
	policyFlags(fs, &pol)
	part := fs.Bool("part", false, "the file is a part, to be added to the configuration in force")
	if err := parse(fs, args, dir, 1); err != nil {
		return err
	}
	p, err := loadProfile(*dir, "")
	if err != nil {
		return err
	}
	stricter := pol.encryptedOnly || pol.authenticatedOnly || pol.ownerRoots != ""
	pol.encryptedOnly = pol.encryptedOnly || p.EncryptedOnly
	pol.authenticatedOnly = pol.authenticatedOnly || p.AuthenticatedOnly
	if pol.ownerRoots == "" && p.OwnerRoots {
		pol.ownerRoots = profilePath(*dir, ownerFile)
	}
	file, err := readFile(fs.Arg(0))
	if err != nil {
		return err
	}
	cfg, closer, err := config(*dir, p, pol)
	if err != nil {
		return err
	}
	defer closer.Close()
	if stricter {
		// What was demanded once holds for the next file too.
		if err := rememberPolicy(*dir, p, pol, durable.Writer{}); err != nil {
			return err
		}
	}
	cfg.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	device, err := autoinstall.New(cfg)
	if err != nil {
		return err
	}
	whole := filepath.Join(*dir, configFile)
	if *part {
		st, err := device.Status(ctx)
		if err != nil {
			return err
		}
		if st.Phase != autoinstall.PhaseInstalled {
			return &autoinstall.RefusedError{Source: fs.Arg(0), Err: errors.New("the device has no configuration that a part could be added to: load the whole one first, without -part")}
		}
	}
	if err := device.Load(ctx, file, autoinstall.Load{Source: fs.Arg(0), Part: *part}); err != nil {
		return err
	}
	if *part {
		_, err = fmt.Fprintf(stdout, "part installed: in %s.d, beside %s\n", whole, whole)
		return err
	}
	_, err = fmt.Fprintf(stdout, "installed: %s\n", whole)
	return err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, autoinstall.DefaultMaxSize+1))
	if err != nil {
		return nil, err
	}
	return b, nil
}

func runStatus(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs, dir := newFlags("status", stdout)
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(fs, args, dir, 0); err != nil {
		return err
	}
	device, err := keyless(*dir)
	if err != nil {
		return err
	}
	return printStatus(ctx, device, stdout, *asJSON)
}

// keyless is a device without its keys, for commands that open nothing.
func keyless(dir string) (*autoinstall.Device, error) {
	p, err := loadProfile(dir, "")
	if err != nil {
		return nil, err
	}
	return autoinstall.New(autoinstall.Config{
		Serial: p.Serial, Dir: dir, Installer: autoinstall.NewFileInstaller(filepath.Join(dir, configFile)),
	})
}

func printStatus(ctx context.Context, device *autoinstall.Device, w io.Writer, asJSON bool) error {
	st, err := device.Status(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	fmt.Fprintf(w, "serial:       %s\nphase:        %s\n", st.Serial, st.Phase)
	if st.Attempts > 0 {
		fmt.Fprintf(w, "attempts:     %d, the last at %s\n", st.Attempts, st.LastAttempt.Format(time.RFC3339))
	}
	if !st.NextAttempt.IsZero() {
		fmt.Fprintf(w, "next attempt: %s\n", st.NextAttempt.Format(time.RFC3339))
	}
	if st.Reason != "" {
		fmt.Fprintf(w, "reason:       %s\n", st.Reason)
	}
	if st.Counter > 0 {
		fmt.Fprintf(w, "counter:      %d\n", st.Counter)
	}
	for _, in := range []*autoinstall.InstalledConfiguration{st.Installed, st.Part} {
		if in == nil {
			continue
		}
		fmt.Fprintf(w, "installed:    SHA-256 %s\n", in.Digest)
		if in.Source == "" {
			fmt.Fprintln(w, "              by somebody else")
			continue
		}
		fmt.Fprintf(w, "              %d bytes from %s at %s; encrypted: %v; owner: %s\n",
			in.Size, in.Source, in.Time.Format(time.RFC3339), in.Encrypted, orNone(in.Owner))
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

func runReset(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fset, dir := newFlags("reset", stdout)
	if err := parse(fset, args, dir, 0); err != nil {
		return err
	}
	device, err := keyless(*dir)
	if err != nil {
		return err
	}
	if err := device.Reset(ctx); err != nil {
		return err
	}
	p, err := loadProfile(*dir, "")
	if err != nil {
		return err
	}
	p.TPM = "" // Files are removed; the TPM has no part in it.
	store, closer, err := keyStore(*dir, p)
	if err != nil {
		return err
	}
	defer closer.Close()
	if err := store.Reset(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := store.Certificate(devicekey.Operator); errors.Is(err, devicekey.ErrNoKey) {
		if err := (durable.Writer{}).Remove(filepath.Join(*dir, p.Serial+"-operator.crt")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err = fmt.Fprintln(stdout, "reset: the device has no configuration; its counter stays")
	return err
}
