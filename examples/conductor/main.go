// Command conductor is a small conductor on the library: it keeps routers,
// issues onboarding tokens, and serves the onboarding port and the SSH port.
// Start with "conductor -h".
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

const usage = `conductor onboards routers and keeps their tunnels.

  conductor init   -dir DIR [-host NAME_OR_IP ...]   make CA, keys and store
  conductor router add|list|show|set|release|remove  keep the routers
  conductor devid  add -dir DIR -roots FILE          trust a manufacturer's roots
  conductor token  -dir DIR -router NAME             print an onboarding token
  conductor serve  -dir DIR                          serve the ports
  conductor legacy -dir DIR -asset-id ID             ask the gate of the legacy way

Each of them explains itself with -h. Exit status: 0 done, 1 failed or refused,
2 wrong usage, 3 "conductor legacy" says no.

DIR holds everything, readable by its owner only:

  conductor.json      written last by init: DIR is complete
  ca.pem, ca.key      the CA certificate, and its key where init made it
  server.pem, .key    the conductor's public certificate and key
  ssh_host_key        the SSH server's key, which routers pin
  device-roots.pem    manufacturers' roots, once "devid add" was used
  routers.db          the routers (SQLite), with their secrets
  events.jsonl        the audit record, one JSON object a line

Certificates, server.key and roots are read again when their files change. A
changed ssh_host_key needs a restart of "conductor serve", and routers pin the
old one until they are onboarded again.
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
	fmt.Fprintln(stderr, "conductor: "+strings.Join(lines, "; "))
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return 1
}

// command is one verb of the program.
type command func(ctx context.Context, args []string, io stdio) error

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	return dispatch(ctx, "conductor", usage, map[string]command{
		"init":   runInit,
		"router": runRouter,
		"devid":  runDevID,
		"token":  runToken,
		"serve":  runServe,
		"legacy": runLegacy,
	}, args, stdio{stdin, stdout, stderr})
}

// dispatch calls the command that the first argument names.
func dispatch(ctx context.Context, name, help string, commands map[string]command, args []string, std stdio) error {
	if len(args) == 0 {
		return wrongUsage(name, "which command? see %q", name+" -h")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(std.out, help)
		return nil
	}
	if c, ok := commands[args[0]]; ok {
		return c(ctx, args[1:], std)
	}
	return wrongUsage(name, "there is no command %.40q; see %q", args[0], name+" -h")
}

func wrongUsage(name, format string, args ...any) error {
	return &exitError{2, fmt.Errorf("%s: "+format, append([]any{name}, args...)...)}
}

// flags is a flag set that reports mistakes in one line.
type flags struct {
	*flag.FlagSet
	required []string
	help     func()
	// more takes arguments that stand without a flag, once it has a value: the
	// further names of "-host A B".
	more *list
}

func newFlags(name, help string, std stdio) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	// The flag package would also print it on mistakes.
	f.Usage = func() {}
	f.help = func() {
		fmt.Fprintf(std.out, "usage: conductor %s\n\n", help)
		f.SetOutput(std.out)
		f.PrintDefaults()
	}
	return f
}

// dir declares the flag that every command has.
func (f *flags) dir() *string {
	f.required = append(f.required, "dir")
	return f.String("dir", "", "the conductor's `DIR`, made by init (required)")
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
		return wrongUsage(f.Name(), "%s; see \"conductor %s -h\"", firstLine(err), f.Name())
	}
	if f.NArg() > 0 && f.more != nil && len(*f.more) > 0 {
		*f.more = append(*f.more, f.Arg(0))
		return f.parse(f.Args()[1:])
	}
	if f.NArg() > 0 {
		return wrongUsage(f.Name(), "unexpected argument %.80q; see \"conductor %s -h\"", f.Arg(0), f.Name())
	}
	for _, name := range f.required {
		if f.Lookup(name).Value.String() == "" {
			return wrongUsage(f.Name(), "-%s is missing; see \"conductor %s -h\"", name, f.Name())
		}
	}
	return nil
}

// given reports whether a flag stands on the command line.
func (f *flags) given(name string) bool {
	found := false
	f.Visit(func(fl *flag.Flag) { found = found || fl.Name == name })
	return found
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }
