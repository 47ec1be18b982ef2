// Command router is a small router on the library: it is onboarded by a
// conductor and keeps a tunnel to it. Start with "router -h".
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

const usage = `router is onboarded by a conductor and keeps a tunnel to it.

  router onboard -dir DIR -token FILE|- -asset-id ID [-conductor HOST:PORT]
  router run     -dir DIR [-forward ...]        keep the tunnel
  router status  -dir DIR [-json]               show how far this router is
  router ek      -tpm TPM                       print the endorsement key

Each of them explains itself with -h. Exit status: 0 done, 1 failed or refused,
2 wrong usage.

DIR holds, readable by its owner only:

  ssh_key             the router's SSH key
  enrollment.json     the result of onboarding; written last
  conductor-ca.pem    the conductor's CA certificate, to be trusted
  known_hosts         the conductor's SSH keys, in OpenSSH's form
  router-config.json  the configuration that the conductor has delivered
  tunnel.json         how the tunnel is, written by "router run"
  run.lock            held by "router run"
`

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(report(os.Stderr, err))
}

// report writes an error as one line and returns the exit status.
func report(stderr io.Writer, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	fmt.Fprintln(stderr, "router: "+strings.Join(lines, "; "))
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return 1
}

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	std := stdio{stdin, stdout, stderr}
	if len(args) == 0 {
		return wrongUsage("router", "which command? see \"router -h\"")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "onboard":
		return runOnboard(ctx, args[1:], std)
	case "run":
		return runRun(ctx, args[1:], std)
	case "status":
		return runStatus(args[1:], std)
	case "ek":
		return runEK(ctx, args[1:], std)
	}
	return wrongUsage("router", "there is no command %.40q; see \"router -h\"", args[0])
}

func wrongUsage(name, format string, args ...any) error {
	return &exitError{2, fmt.Errorf("%s: "+format, append([]any{name}, args...)...)}
}

// flags is a flag set that reports mistakes in one line.
type flags struct {
	*flag.FlagSet
	required []string
	help     func()
}

func newFlags(name, help string, std stdio) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	// The flag package would also print it on mistakes.
	f.Usage = func() {}
	f.help = func() {
		fmt.Fprintf(std.out, "usage: router %s\n\n", help)
		f.SetOutput(std.out)
		f.PrintDefaults()
	}
	return f
}

// need declares a required flag.
func (f *flags) need(name, help string) *string {
	f.required = append(f.required, name)
	return f.String(name, "", help+" (required)")
}

func (f *flags) parse(args []string) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.help()
			return err
		}
		first, _, _ := strings.Cut(err.Error(), "\n")
		return wrongUsage(f.Name(), "%s; see \"router %s -h\"", first, f.Name())
	}
	if f.NArg() > 0 {
		return wrongUsage(f.Name(), "unexpected argument %.80q; see \"router %s -h\"", f.Arg(0), f.Name())
	}
	for _, name := range f.required {
		if f.Lookup(name).Value.String() == "" {
			return wrongUsage(f.Name(), "-%s is missing; see \"router %s -h\"", name, f.Name())
		}
	}
	return nil
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }
