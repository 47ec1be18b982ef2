// Command integrityd is the reference service of package integrity: it keeps a
// router's sensitive directories encrypted under a key that only this machine's
// TPM gives out, and keeps a machine that was tampered with off the network.
//
// It is installed as the systemd service integrity-handler; see the unit file
// beside it. Run "integrityd -h" for its commands.
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

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
)

// The exit codes. Everything else that goes wrong is 1.
const (
	exitFailed      = 1
	exitRequirement = 2
	exitEvent       = 4
)

const usage = `integrityd keeps directories encrypted under a key that only this machine's TPM gives out.

  integrityd check  -config FILE [-json]   every requirement, met or not (exit 0, or 2)
  integrityd enable -config FILE           protect the system, once for its life
  integrityd run    -config FILE [-once]   unlock, verify, watch; -once: exit 0, or 4 on an integrity event
  integrityd status -config FILE [-json]   what is enabled and open, and the last event
  integrityd lock   -config FILE           lock the directories
  integrityd policy make    -config FILE -reference NAME -pcrs LIST -number N -out FILE
                                           note the boot state of this machine as a policy
  integrityd policy sign    -in FILE -key PEM [-out FILE]
                                           sign a policy with the vendor's key
  integrityd policy install -config FILE -in FILE
                                           check a signed policy and put it in place
  integrityd policy rewrap  -config FILE -to FILE
                                           wrap the key anew for the TPM settings of another configuration

The configuration is JSON:

  {
    "tpm": "/dev/tpmrm0",                  or "swtpm:SOCKET", or "simulator" to try it out
    "state_dir": "/var/lib/integrity",
    "directories": ["/etc/router", "/var/lib/router/keys"],
    "mode": "direct",                      or "compat", for the fscrypt command line tool
    "policy": "none",                      or "literal", "literal:0,2,7", or an object; see README.md
    "console": "/tmp/console"              stands in for the consoles and the kernel log, in tests
  }
`

// exit is an error with the exit code that it asks for.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(code(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr), os.Stderr))
}

// code reports an error in one line and returns the exit code.
func code(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(stderr, "integrityd: %s\n", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "integrity: "), "\n", "; "))
	var e *exit
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

type command func(ctx context.Context, args []string, stdout, stderr io.Writer) error

func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	commands := map[string]command{
		"check": check, "enable": enable, "run": serve, "status": status, "lock": lock, "policy": policy,
	}
	return dispatch(ctx, "integrityd", commands, args, stdout, stderr)
}

func dispatch(ctx context.Context, name string, commands map[string]command, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no command given; %q lists them", "integrityd -h")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	c, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("%s has no command %.64q; %q lists them", name, args[0], "integrityd -h")
	}
	return c(ctx, args[1:], stdout, stderr)
}

// flags makes a flag set whose mistakes are one line, and whose -h goes to
// standard output.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet("integrityd "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

func parse(fs *flag.FlagSet, args []string, stdout io.Writer, required ...string) error {
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(stdout)
		fmt.Fprintf(stdout, "Usage of %s:\n", fs.Name())
		fs.PrintDefaults()
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w; -h lists the flags", fs.Name(), err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: %.64q is not a flag; -h lists them", fs.Name(), fs.Arg(0))
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return fmt.Errorf("%s: give -%s; -h says what it is", fs.Name(), name)
		}
	}
	return nil
}

func configFlag(fs *flag.FlagSet) *string {
	return fs.String("config", "", "the configuration `FILE`")
}

func check(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("check")
	config, asJSON := configFlag(fs), fs.Bool("json", false, "write JSON")
	if err := parse(fs, args, stdout, "config"); err != nil {
		return err
	}
	s, err := open(*config, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	findings, err := s.handler.Check(ctx)
	if err != nil {
		return err
	}
	if err := showFindings(stdout, findings, *asJSON); err != nil {
		return err
	}
	if n := unmet(findings); n > 0 {
		return &exit{exitRequirement, fmt.Errorf("%d of %d requirements are not met; see the list, mend them and check again", n, len(findings))}
	}
	return nil
}

func enable(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("enable")
	config := configFlag(fs)
	if err := parse(fs, args, stdout, "config"); err != nil {
		return err
	}
	s, err := open(*config, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	err = s.handler.Enable(ctx)
	var missing *integrity.CheckError
	switch {
	case errors.As(err, &missing):
		if err := showFindings(stdout, missing.Findings, false); err != nil {
			return err
		}
		return &exit{exitRequirement, err}
	case err != nil:
		return err
	}
	fmt.Fprintln(stdout, "enabled: the directories are encrypted and open; \"integrityd run\" opens them from the next start on")
	return nil
}

func serve(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("run")
	config, once := configFlag(fs), fs.Bool("once", false, "unlock and verify once, then exit")
	if err := parse(fs, args, stdout, "config"); err != nil {
		return err
	}
	if !*once {
		s, err := openInTheEnd(ctx, *config, stderr)
		if err != nil {
			// Somebody ended the service while it waited for a configuration.
			return nil
		}
		defer s.close()
		return s.handler.Run(ctx)
	}
	s, err := open(*config, stderr, false)
	if err != nil {
		return &exit{exitEvent, fmt.Errorf("integrity event: %w; networking stays blocked", refuse(ctx, *config, err, stderr))}
	}
	defer s.close()
	if err := s.handler.RunOnce(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return &exit{exitEvent, fmt.Errorf("integrity event: %w; networking stays blocked", err)}
	}
	switch err := s.revoke(ctx); {
	case errors.Is(err, tpmwrap.ErrNotProven):
		// Networking is up already, and nothing is wrong with this start.
		fmt.Fprintf(stderr, "integrityd: %v\n", err)
	case err != nil:
		return err
	}
	fmt.Fprintln(stdout, "ready: every protected directory is verified and open")
	return nil
}

func status(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("status")
	config, asJSON := configFlag(fs), fs.Bool("json", false, "write JSON")
	if err := parse(fs, args, stdout, "config"); err != nil {
		return err
	}
	s, err := open(*config, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	st, err := s.handler.Status(ctx)
	if err != nil {
		return err
	}
	return showStatus(stdout, st, *asJSON)
}

func lock(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flags("lock")
	config := configFlag(fs)
	if err := parse(fs, args, stdout, "config"); err != nil {
		return err
	}
	s, err := open(*config, stderr, false)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.handler.Lock(ctx); err != nil {
		if cause.Of(err) == cause.NotEnabled {
			return errors.New("nothing to lock: this system is not enabled; \"integrityd enable\" does that")
		}
		return err
	}
	fmt.Fprintln(stdout, "locked")
	return nil
}
