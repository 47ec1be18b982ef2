// Command operator is the operator's side of a secure device install (RFC 8886): it gets the certificate of a device from
// the vendor's directory, and encrypts the device's configuration to it.
//
//	operator fetch -url https://keyserv.example.net -ca vendor.pem -serial SN19842256 -dir devices
//	operator encrypt -cert devices/SN19842256.crt -in SN19842256.cfg -out /srv/tftp/SN19842256.enc
//
// Run it with -h for all flags. It exits with 0 when it did what it was asked to, 1 when it could not, and 2 when it was
// called wrongly.
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

const usage = `usage: operator COMMAND [flags]

  fetch     get a device's certificate from the vendor's directory and keep it
  encrypt   encrypt a configuration to a device, and sign it if asked

operator COMMAND -h explains the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	os.Exit(exitCode(err, os.Stderr))
}

// errUsage says that the command was called wrongly.
var errUsage = errors.New("usage")

// exitCode prints the error on one line.
func exitCode(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(stderr, "operator:", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "operator: "), "\n", "; "))
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: a command is missing: fetch or encrypt; operator -h explains", errUsage)
	}
	switch args[0] {
	case "fetch":
		return fetch(ctx, args[1:], stdout)
	case "encrypt":
		return encrypt(args[1:], stdin, stdout)
	case "-h", "-help", "--help", "help":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return fmt.Errorf("%w: no command %.40q: fetch or encrypt; operator -h explains", errUsage, args[0])
}

// parse reads flags; synopsis stands above them in the help. required flags must not be empty.
func parse(fs *flag.FlagSet, synopsis string, args []string, stdout io.Writer, required ...string) error {
	fs.SetOutput(io.Discard)
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(stdout)
		fmt.Fprintf(stdout, "usage: operator %s %s\n\n", fs.Name(), synopsis)
		fs.PrintDefaults()
		return flag.ErrHelp
	} else if err != nil {
		return fmt.Errorf("%w: %w; operator %s -h explains", errUsage, err, fs.Name())
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %.40q; operator %s -h explains", errUsage, fs.Arg(0), fs.Name())
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return fmt.Errorf("%w: -%s is missing; operator %s -h explains", errUsage, name, fs.Name())
		}
	}
	return nil
}
