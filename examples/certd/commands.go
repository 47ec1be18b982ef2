package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/certtext"
	"github.com/mooringlib/mooring/pki/verify"
)

// maxFile bounds what is read from a file that is named on the command line.
const maxFile = 4 << 20

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (c *cli) readFile(path string) ([]byte, error) {
	r := c.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%q has more than %d bytes", path, maxFile)
	}
	return data, nil
}

func key(ctx context.Context, c *cli, args []string) error {
	var r pki.KeyRequest
	var size int
	c.flags.StringVar(&r.Name, "name", "", "`name` of the key, its request and its certificate")
	c.flags.StringVar(&r.Algorithm, "algorithm", "", "RSA or ECC")
	c.flags.IntVar(&size, "rsa-key-size", 0, "2048 to 4096 `bits` in multiples of 256 (default 2048)")
	c.flags.StringVar(&r.ECCCurve, "ecc-curve", "", "SECP256R1, SECP384R1 or SECP521R1 (default SECP256R1)")
	c.flags.BoolVar(&r.Replace, "replace", false, "make a new key for a name that has one; the old one stays in force until the new certificate is in")
	if err := c.parse(args, "name", "algorithm"); err != nil {
		return err
	}
	r.RSAKeySize = pki.Int(size)
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.m.CreateKey(ctx, r); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"name": r.Name, "algorithm": r.Algorithm})
	}
	_, err = fmt.Fprintf(c.stdout, "private key %s made; next: certd csr -dir %s -name %s -common-name ...\n", r.Name, c.dir, r.Name)
	return err
}

// list is a flag that may be given more than once, also with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	for _, v := range strings.Split(s, ",") {
		*l = append(*l, strings.TrimSpace(v))
	}
	return nil
}

func csr(ctx context.Context, c *cli, args []string) error {
	var r pki.Request
	var size, days int
	f := c.flags
	f.StringVar(&r.Name, "name", "", "`name` of the key")
	f.StringVar(&r.CommonName, "common-name", "", "common name of the router")
	f.StringVar(&r.CountryName, "country-name", "", "two letters")
	f.StringVar(&r.StateProvinceName, "state-province-name", "", "state or province")
	f.StringVar(&r.LocalityName, "locality-name", "", "city")
	f.StringVar(&r.OrganizationName, "organization-name", "", "organization")
	f.StringVar(&r.OrganizationalUnit, "organizational-unit-name", "", "organizational unit")
	f.StringVar(&r.EmailAddress, "email-address", "", "email address")
	f.StringVar(&r.Algorithm, "algorithm", "", "RSA or ECC: makes the key when there is none")
	f.IntVar(&size, "rsa-key-size", 0, "2048 to 4096 `bits` in multiples of 256")
	f.StringVar(&r.ECCCurve, "ecc-curve", "", "SECP256R1, SECP384R1 or SECP521R1")
	f.IntVar(&days, "validity-period", 0, "wanted validity in `days`; goes into the audit record")
	f.Var((*list)(&r.SubjectAltNames), "subject-alt-name", "DNS name, IP address, email address or URI; may be given more than once")
	if err := c.parse(args, "name", "common-name"); err != nil {
		return err
	}
	r.RSAKeySize, r.ValidityPeriod = pki.Int(size), pki.Int(days)
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	text, err := s.m.CreateRequest(ctx, r)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]string{"csr": string(text)})
	}
	_, err = c.stdout.Write(text)
	return err
}

func ingest(ctx context.Context, c *cli, args []string) error {
	name := c.flags.String("name", "", "`name` of the key")
	file := c.flags.String("certificate", "", "`file` with the certificate in PEM, with or without its chain; - is standard input")
	if err := c.parse(args, "name", "certificate"); err != nil {
		return err
	}
	text, err := c.readFile(*file)
	if err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	report, err := s.m.Ingest(ctx, *name, text)
	if report != nil {
		if c.json {
			err = errors.Join(err, c.printJSON(report))
		} else {
			printReport(c.stdout, report)
		}
	}
	return err
}

func printReport(w io.Writer, r *pki.Ingested) {
	for _, check := range r.Checks {
		fmt.Fprintf(w, "check %s: %s\n", check.Name, check.Result)
		printIssues(w, check.Issues)
	}
	if r.Accepted {
		fmt.Fprintf(w, "certificate %s is in force until %s\n", r.Name, r.Certificate.NotAfter.UTC().Format("2006-01-02 15:04:05 MST"))
	}
}

func printIssues(w io.Writer, issues []verify.Issue) {
	for _, i := range issues {
		kind := "refused"
		if i.Warning {
			kind = "warning"
		}
		fmt.Fprintf(w, "  %s: %s\n", kind, i)
	}
}

func trust(ctx context.Context, c *cli, args []string) error {
	name := c.flags.String("name", "", "`name` of the bundle")
	file := c.flags.String("file", "", "`file` with the authorities in PEM, up to the root, in any order; - is standard input")
	mode := c.flags.String("validation-mode", "strict", "strict refuses a bundle with issues, warn takes it and reports them")
	// The word may stand before or after flags.
	if err := c.parseSome(args); err != nil {
		return err
	}
	word := c.flags.Arg(0)
	if c.flags.NArg() > 0 {
		if err := c.parseSome(c.flags.Args()[1:]); err != nil {
			return err
		}
	}
	if c.flags.NArg() > 0 {
		return badUsage("%q is not expected here; certd trust -h lists the flags", c.flags.Arg(0))
	}
	required := map[string][]string{"add": {"dir", "name", "file"}, "remove": {"dir", "name"}, "list": {"dir"}}[word]
	if required == nil {
		return badUsage("trust takes add, list or remove, not %q", word)
	}
	if err := c.require(required...); err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	switch word {
	case "add":
		if *mode != string(pki.Strict) && *mode != string(pki.Warn) {
			return badUsage("-validation-mode is strict or warn, not %q", *mode)
		}
		text, err := c.readFile(*file)
		if err != nil {
			return err
		}
		b, err := s.m.AddTrust(ctx, *name, text, pki.Mode(*mode))
		if b != nil && c.json {
			return errors.Join(err, c.printJSON(b))
		}
		if err == nil {
			printBundle(c.stdout, *b)
		}
		return err
	case "remove":
		if err := s.m.RemoveTrust(ctx, *name); err != nil {
			return err
		}
		if c.json {
			return c.printJSON(map[string]any{"name": *name, "removed": true})
		}
		_, err := fmt.Fprintf(c.stdout, "bundle %s is not trusted any more\n", *name)
		return err
	}
	bundles := s.m.Trusted()
	if c.json {
		return c.printJSON(map[string]any{"bundles": bundles})
	}
	for _, b := range bundles {
		printBundle(c.stdout, b)
	}
	return nil
}

func printBundle(w io.Writer, b pki.Bundle) {
	fmt.Fprintf(w, "%s (%s)\n", b.Name, b.Mode)
	for _, s := range b.Subjects {
		fmt.Fprintf(w, "  %s\n", s)
	}
	printIssues(w, b.Issues)
}

func show(ctx context.Context, c *cli, args []string) error {
	if err := c.parse(args); err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	states := s.m.Show(ctx)
	if c.json {
		return c.printJSON(map[string]any{"certificates": states})
	}
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tSUBJECT\tISSUER\tNOT AFTER\tKEY")
	for _, st := range states {
		end := ""
		if !st.NotAfter.IsZero() {
			end = st.NotAfter.UTC().Format("2006-01-02 15:04:05Z")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", st.Name, st.State, st.Subject, st.Issuer, end, st.Key)
	}
	return w.Flush()
}

func detail(ctx context.Context, c *cli, args []string) error {
	name := c.flags.String("name", "", "`name` of the certificate; all when it is not given")
	if err := c.parse(args); err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	type one struct {
		Status pki.Status       `json:"status"`
		Detail *certtext.Detail `json:"detail,omitempty"`
	}
	all := []one{}
	for _, st := range s.m.Show(ctx) {
		if *name != "" && st.Name != *name {
			continue
		}
		o := one{Status: st}
		if certs, err := s.m.Certificate(st.Name); err == nil {
			d := certtext.New(certs[0])
			o.Detail = &d
		}
		all = append(all, o)
	}
	if *name != "" && len(all) == 0 {
		return fmt.Errorf("there is no certificate %q; certd show lists them", *name)
	}
	switch {
	case c.json && *name != "":
		return c.printJSON(all[0])
	case c.json:
		return c.printJSON(map[string]any{"certificates": all})
	}
	for _, o := range all {
		fmt.Fprintf(c.stdout, "%s: %s\n", o.Status.Name, o.Status.State)
		printIssues(c.stdout, o.Status.Issues)
		if o.Detail != nil {
			fmt.Fprint(c.stdout, o.Detail.Text())
			fmt.Fprintf(c.stdout, "SHA1 Fingerprint=%s\nSHA256 Fingerprint=%s\n", o.Detail.FingerprintSHA1, o.Detail.FingerprintSHA256)
		}
	}
	return nil
}

func alarms(ctx context.Context, c *cli, args []string) error {
	if err := c.parse(args); err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.m.Sweep(ctx); err != nil {
		return err
	}
	raised := s.m.Alarms()
	if c.json {
		return c.printJSON(map[string]any{"alarms": raised})
	}
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	for _, a := range raised {
		fmt.Fprintf(w, "%s\t%s\t%s\n", a.Severity, a.Subject, a.Text)
	}
	return w.Flush()
}
