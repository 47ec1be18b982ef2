// Command vendordir is the vendor's directory of device certificates for secure
// device install (RFC 8886): manufacturing publishes, operators fetch by serial
// number. It is a thin program around package autoinstall/directory; "vendordir
// -h" explains it.
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

const usage = `vendordir publishes the certificates of devices by serial number.

  vendordir init    -dir DIR -listen ADDR [-host NAME ...]
  vendordir serve   -dir DIR [-listen ADDR] [-unique-keys]
  vendordir publish -url U -token T -serial S (-cert F | -public-key F) [-ca F]
                    [-replace SHA256 -reason TEXT]

init    makes the directory and prints the CA certificate, which operators need,
        and the token, which manufacturing needs. The token is shown once.
serve   serves https://ADDR/certificates/SERIAL.crt until it is interrupted.
publish publishes a certificate, or a public key that the directory wraps. The
        directory is known by the fingerprint in the token, or by -ca. What is
        published stays; -replace names the SHA-256 of the certificate (DER) that
        is to be replaced, and -reason says why, for the audit record.

An operator fetches a certificate with examples/operator, or with

  wget --ca-certificate=ca.crt https://ADDR/certificates/SERIAL.crt

Exit status: 0 done, 1 failed or refused, 2 wrong use.

DIR is readable by its owner only and holds:

  directory.json       addresses, and the hashes of tokens; written last by init
  ca.crt, ca.key       the CA of the HTTPS certificate, which serve makes anew
  wrap.crt, wrap.key   what signs the certificates around raw public keys
  store/               one file for each serial number, with all its versions
  events.jsonl         the audit record, one JSON object a line
  strangers.jsonl      requests without an accepted token, the newest (at most 2 MiB
                       with strangers.jsonl.old)
`

// usageError is a mistake in the call.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitStatus(err, os.Stderr))
}

// exitStatus prints an error on one line and says how the program ends.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(stderr, "vendordir: %s\n", strings.Join(strings.Fields(err.Error()), " "))
	var mistake usageError
	if errors.As(err, &mistake) {
		return 2
	}
	return 1
}

func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("say what to do: init, serve or publish (vendordir -h explains)")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "init":
		return runInit(args[1:], stdout)
	case "serve":
		return runServe(ctx, args[1:], stdout, stderr)
	case "publish":
		return runPublish(ctx, args[1:], stdout)
	default:
		return usagef("%.32q is not a command: say init, serve or publish (vendordir -h explains)", args[0])
	}
}

func newFlags(name string, stdout io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("vendordir "+name, flag.ContinueOnError)
	fs.SetOutput(stdout)
	return fs
}

func parse(fs *flag.FlagSet, args []string) error {
	out := fs.Output()
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(out)
		fmt.Fprintf(out, "Usage of %s:\n", fs.Name())
		fs.PrintDefaults()
		return err
	}
	if err != nil {
		return usageError{fmt.Errorf("%w (%s -h explains)", err, fs.Name())}
	}
	if fs.NArg() > 0 {
		return usagef("unexpected argument %.64q", fs.Arg(0))
	}
	return nil
}
