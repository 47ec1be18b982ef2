package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/sco"
)

// defaultPort is where routers look for a conductor whose address has no port.
const defaultPort = "933"

func runToken(ctx context.Context, args []string, std stdio) error {
	f := newFlags("token", `token -dir DIR -router N [-expiration-timeout 1d] [-conductor HOST:PORT ...] [-json]

Prints an onboarding token, alone on standard output. It holds the router's
secret: hand it over as you would a password. -json prints the content of an
onboarding-config.json instead.`, std)
	dir := f.dir()
	name := f.need("router", "the router's `NAME`")
	timeout := f.String("expiration-timeout", "1d", "how long it is valid, such as 30m, 12h, 1d, 2mo; at most 1y")
	var addresses list
	f.Var(&addresses, "conductor", "`HOST:PORT` of an onboarding port, put into the token; repeat it for more (default: the names in the certificate, port 933)")
	f.more = &addresses
	asJSON := f.Bool("json", false, "print onboarding-config.json")
	asset := f.String("asset-id", "", "the node's asset-`ID` for -json; needed when the router has two nodes")
	if err := f.parse(args); err != nil {
		return err
	}
	lifetime, err := sco.ParseLifetime(*timeout)
	if err != nil {
		return wrongUsage("token", "-expiration-timeout: %s", err)
	}
	if *asset != "" && !*asJSON {
		return wrongUsage("token", "-asset-id is for -json")
	}
	return withState(ctx, *dir, func(s *state) error {
		if len(addresses) == 0 {
			addresses = s.certificateAddresses(ctx)
		}
		issuer, err := sco.NewIssuer(sco.IssuerConfig{Registry: s.registry, Settings: s.settings.get, Addresses: addresses})
		if err != nil {
			return err
		}
		t, err := issuer.IssueToken(ctx, *name, lifetime)
		if err != nil {
			return err
		}
		if !*asJSON {
			_, err = fmt.Fprintln(std.out, t.Reveal())
			return err
		}
		c := sco.OnboardingConfig{Token: t, Addresses: t.Addresses(), AssetID: *asset}
		if ids := t.AssetIDs(); c.AssetID == "" && len(ids) == 1 {
			c.AssetID = ids[0]
		} else if c.AssetID == "" {
			return fmt.Errorf("the router has the asset-ids %q; say for which with -asset-id", ids)
		}
		b, err := c.Reveal()
		if err != nil {
			return err
		}
		if _, err := sco.ParseOnboardingConfig(b); err != nil {
			return err
		}
		_, err = std.out.Write(b)
		return err
	})
}

// certificateAddresses are the names that init was given. There may be none.
func (s *state) certificateAddresses(ctx context.Context) []string {
	set, err := s.settings.get(ctx)
	if err != nil || set.Certificate == nil {
		// IssueToken says what is wrong with the settings.
		return nil
	}
	var out []string
	for _, ip := range set.Certificate.IPAddresses {
		out = append(out, net.JoinHostPort(ip.String(), defaultPort))
	}
	for _, name := range set.Certificate.DNSNames {
		if validHostName(name) {
			out = append(out, net.JoinHostPort(name, defaultPort))
		}
	}
	return out[:min(len(out), 8)]
}

func runLegacy(ctx context.Context, args []string, std stdio) error {
	f := newFlags("legacy", `legacy -dir DIR -asset-id ID

Asks whether a device with this asset-id may use the legacy way of onboarding.
Exit status 0: yes. 3: no, and the reason is printed.`, std)
	dir := f.dir()
	asset := f.need("asset-id", "the asset-`ID`")
	if err := f.parse(args); err != nil {
		return err
	}
	return withState(ctx, *dir, func(s *state) error {
		allowed, reason, err := s.registry.LegacyAllowed(ctx, *asset)
		if err != nil {
			return err
		}
		if !allowed {
			return &exitError{3, fmt.Errorf("legacy onboarding refused: %s", reason)}
		}
		fmt.Fprintln(std.out, "legacy onboarding allowed")
		return nil
	})
}

const devidUsage = `conductor devid add -dir DIR -roots FILE trusts a manufacturer's device ID roots.
`

func runDevID(ctx context.Context, args []string, std stdio) error {
	return dispatch(ctx, "conductor devid", devidUsage, map[string]command{"add": runDevIDAdd}, args, std)
}

func runDevIDAdd(ctx context.Context, args []string, std stdio) error {
	f := newFlags("devid add", `devid add -dir DIR -roots FILE

Trusts the CA certificates in FILE (PEM) as manufacturer roots: in mode strong, a
device ID certificate has to chain to one of them. They are added to those that
are trusted already.`, std)
	dir := f.dir()
	file := f.need("roots", "PEM `FILE` with the manufacturer's CA certificates")
	if err := f.parse(args); err != nil {
		return err
	}
	fresh, err := readCertificates(*file)
	if err != nil {
		return fmt.Errorf("-roots: %w", err)
	}
	for i, c := range fresh {
		if !c.IsCA || !c.BasicConstraintsValid {
			return fmt.Errorf("-roots: certificate %d in %q (%.80q) is not a CA certificate", i+1, *file, c.Subject)
		}
		if time.Now().After(c.NotAfter) {
			return fmt.Errorf("-roots: certificate %d in %q (%.80q) has expired", i+1, *file, c.Subject)
		}
	}
	return withState(ctx, *dir, func(s *state) error {
		return s.alone(ctx, func() error { return addRoots(durable.Writer{}, filepath.Join(s.dir, fileRoots), fresh) })
	})
}

// addRoots adds the certificates that are not there yet.
func addRoots(w durable.Writer, path string, fresh []*x509.Certificate) error {
	have, err := readCertificates(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, c := range append(have, fresh...) {
		if !seen[string(c.Raw)] {
			seen[string(c.Raw)] = true
			out.Write(encodePEM("CERTIFICATE", c.Raw))
		}
	}
	if out.Len() > maxFile {
		return fmt.Errorf("-roots: there would be more than %d bytes of roots", maxFile)
	}
	return w.WriteFile(path, out.Bytes(), 0o644)
}
