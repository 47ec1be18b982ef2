// Crld keeps revocation lists: it fetches, checks and publishes them, shares
// them with routers, and says whether a certificate is revoked. It is a thin
// program around package crl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "crld:", line(err))
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "crld:", line(err))
		os.Exit(1)
	}
}

const usage = `crld keeps certificate revocation lists.

  crld run    -config F                    fetch on schedule, and serve routers when "listen" is set
  crld fetch  -config F                    fetch every list once, now
  crld check  -config F [-explain] CERT... say whether certificates are revoked
  crld show   -config F [-json]            the lists in force
  crld alarms -config F [-json]            what needs attention
  crld sync   -config F -from URL          take the lists over from a conductor's crld

Exit codes: 0 success, or all certificates are good; 1 failure; 2 wrong use;
3 a certificate is revoked; 4 the status of a certificate is unknown or stale.
"check" asks no network. In a file with several certificates the first one is
checked, and the others help to find its issuer.

The configuration is JSON:

  {
    "directory": "/var/lib/crld",            where everything is kept
    "issuers": ["ca.pem"],                   certificate authorities, PEM files
    "urls": ["http://pki.example/ca.crl"],   http, https or file
    "certificates": ["router.pem"],          their distribution points are fetched too
    "polling-interval": 24,                  hours, 1 to 168
    "backoff-interval": 60,                  seconds, 1 to 3600
    "listen": "127.0.0.1:8930",              for routers, nobody when empty
    "fail": "hard"                           what unknown and stale mean for connections: soft or hard
  }

Further: "grace" (hours that an expired list still permits under "hard", 72),
"allow-private" (addresses out of certificates may be private ones, false),
"allow-unnumbered" (lists of version 1 or without number, false), "max-list-bytes",
"max-entries", "node". Files are relative to the directory of the configuration.
`

var errUsage = errors.New("wrong use")

// exitCode is an exit code whose reason was printed already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run is the program. Everything it uses is an argument.
func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return fmt.Errorf("%w: say what to do, such as: crld check -config crld.json cert.pem", errUsage)
	}
	name := args[0]
	if name == "-h" || name == "-help" || name == "--help" || name == "help" {
		fmt.Fprint(stdout, usage)
		return nil
	}
	commands := map[string]func(ctx context.Context, e *environment) error{
		"run": runCommand, "fetch": fetchCommand, "check": checkCommand, "show": showCommand, "alarms": alarmsCommand, "sync": syncCommand,
	}
	command := commands[name]
	if command == nil {
		return fmt.Errorf("%w: there is no command %.40q: use run, fetch, check, show, alarms or sync", errUsage, name)
	}
	e := &environment{stdout: stdout, stderr: stderr}
	fs := flag.NewFlagSet("crld "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	config := fs.String("config", "", "")
	switch name {
	case "check":
		fs.BoolVar(&e.explain, "explain", false, "")
	case "show", "alarms":
		fs.BoolVar(&e.json, "json", false, "")
	case "sync":
		fs.StringVar(&e.from, "from", "", "")
	}
	files, err := parse(fs, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case *config == "":
		return fmt.Errorf("%w: -config FILE is missing", errUsage)
	case name == "check" && len(files) == 0:
		return fmt.Errorf("%w: name the certificate files to check", errUsage)
	case name != "check" && len(files) > 0:
		return fmt.Errorf("%w: %.80q is not expected", errUsage, files[0])
	case name == "sync" && e.from == "":
		return fmt.Errorf("%w: -from URL is missing", errUsage)
	}
	e.files = files
	if e.cfg, err = readConfig(*config); err != nil {
		return err
	}
	return command(ctx, e)
}

// parse takes flags before, between and behind files.
func parse(fs *flag.FlagSet, args []string) (files []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if args = fs.Args(); len(args) == 0 {
			return files, nil
		}
		files, args = append(files, args[0]), args[1:]
	}
}
