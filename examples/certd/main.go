// Command certd keeps the certificates of a router with package pki: on the
// command line, and over HTTPS with a certificate that it manages by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `certd keeps the certificates of a router.

  certd init   -dir DIR [-user NAME -password-file F] [-tpm TPM] [-crl-dir DIR]
  certd serve  -dir DIR -listen ADDR
  certd key    -dir DIR -name N -algorithm RSA|ECC [-rsa-key-size 2048] [-ecc-curve SECP256R1] [-replace]
  certd csr    -dir DIR -name N -common-name C [-subject-alt-name S]... [...]
  certd ingest -dir DIR -name N -certificate FILE
  certd trust  add -dir DIR -name N -file F [-validation-mode strict|warn]
  certd trust  list|remove -dir DIR [-name N]
  certd show   -dir DIR
  certd detail -dir DIR [-name N]
  certd alarms -dir DIR

Each takes -json for an answer that programs read, and -h for its flags.
DIR holds NAME.key and NAME.pem for each certificate. Begin with init.
Exit status: 0 done, 1 refused with reasons, 2 wrong usage.
`

// usageError is an error in how the program was called.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func badUsage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	// One line, whatever is in it.
	fmt.Fprintln(os.Stderr, "certd: "+strings.Join(strings.Fields(err.Error()), " "))
	stop()
	var u usageError
	if errors.As(err, &u) {
		os.Exit(2)
	}
	os.Exit(1)
}

type command func(ctx context.Context, c *cli, args []string) error

func commands() map[string]command {
	return map[string]command{
		"init": initDir, "serve": serve, "key": key, "csr": csr, "ingest": ingest,
		"trust": trust, "show": show, "detail": detail, "alarms": alarms,
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return badUsage("a command is missing; certd -h lists them")
	}
	if args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	cmd, ok := commands()[args[0]]
	if !ok {
		return badUsage("%q is not a command; certd -h lists them", args[0])
	}
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	c.flags = flag.NewFlagSet("certd "+args[0], flag.ContinueOnError)
	c.flags.SetOutput(io.Discard)
	c.flags.StringVar(&c.dir, "dir", "", "`directory` of keys and certificates")
	c.flags.BoolVar(&c.json, "json", false, "answer in JSON")
	err := cmd(ctx, c, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stdout, "certd %s takes:\n", args[0])
		c.flags.SetOutput(stdout)
		c.flags.PrintDefaults()
		return nil
	}
	return err
}

// cli is one call of the program.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	flags          *flag.FlagSet
	dir            string
	json           bool
}

// parse reads the flags and insists on those that are named.
func (c *cli) parse(args []string, required ...string) error {
	if err := c.parseSome(args); err != nil {
		return err
	}
	if c.flags.NArg() > 0 {
		return badUsage("%q is not expected here; %s -h lists the flags", c.flags.Arg(0), c.flags.Name())
	}
	return c.require(append([]string{"dir"}, required...)...)
}

func (c *cli) parseSome(args []string) error {
	err := c.flags.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return badUsage("%s; %s -h lists the flags", err.Error(), c.flags.Name())
	}
	return err
}

func (c *cli) require(names ...string) error {
	for _, n := range names {
		if c.flags.Lookup(n).Value.String() == "" {
			return badUsage("-%s is missing; %s -h lists the flags", n, c.flags.Name())
		}
	}
	return nil
}
