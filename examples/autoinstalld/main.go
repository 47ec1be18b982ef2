// Command autoinstalld is the device's side of a secure device install (RFC
// 8886): it makes the device's key, looks for the configuration, and installs
// it. It is a thin program around package autoinstall; "autoinstalld -h"
// explains it.
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

	"github.com/mooringlib/mooring/autoinstall"
)

const usage = `autoinstalld installs the first configuration of a router (RFC 8886).

  autoinstalld keygen -dir DIR -serial S [-tpm SPEC [-dual-use]] [-algorithm A] [-operator prefer|replace]
  autoinstalld run    -dir DIR -serial S [-interface IF | -server ADDR [-file NAME]]
                      [-encrypted-only | -authenticated-only] [-owner-roots F] [-once] [-ca F]
                      [-sane PROGRAM] [-raw] [-json]
  autoinstalld load   -dir DIR [-part] [-owner-roots F] [-encrypted-only | -authenticated-only]
                      [-sane PROGRAM] [-raw] FILE
  autoinstalld status -dir DIR [-json]
  autoinstalld reset  -dir DIR

keygen  makes the device's key and certificate, in the factory. When it was cut
        off, the same call once more completes it.
run     looks for a configuration until one is installed: after 5 minutes in the
        first hour, every hour after that, for ever. -once makes one attempt.
load    installs a file on a running device, by the policy of the last run or load;
        its flags make the policy stricter, only a run makes it looser. -part
        adds to a configuration that is in force.
status  says what the device does, and why nothing is installed yet.
reset   is the factory reset: the configuration goes, run starts from DHCP again.

Exit status: 0 installed or done, 1 failed, 2 wrong use, 3 nothing to install yet
(run -once), 4 a file or an answer was refused.

DIR is readable by its owner only and holds:

  startup.cfg        the configuration in force; startup.cfg.d/ what load -part added
  SERIAL.crt         the certificate to publish; keys/ holds keys and certificates
  profile/           device.json: serial number, TPM, and the policy of the last run
                     or load; owner-roots.pem: the trusted owners of that policy
  state.json         what was installed, and the counter that never goes back
  status.json        what "status" shows about attempts
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
	text := strings.Join(strings.Fields(err.Error()), " ")
	var mistake usageError
	switch {
	case errors.As(err, &mistake):
		fmt.Fprintf(stderr, "autoinstalld: %s\n", text)
		return 2
	case errors.Is(err, autoinstall.ErrRefused):
		fmt.Fprintf(stderr, "autoinstalld: %s; nothing was changed\n", text)
		return 4
	case errors.Is(err, autoinstall.ErrNothingYet):
		fmt.Fprintf(stderr, "autoinstalld: %s; try again later, or leave -once away\n", text)
		return 3
	default:
		fmt.Fprintf(stderr, "autoinstalld: %s\n", text)
		return 1
	}
}

func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("say what to do: keygen, run, load, status or reset (autoinstalld -h explains)")
	}
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) error{
		"keygen": runKeygen, "run": runRun, "load": runLoad, "status": runStatus, "reset": runReset,
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	command, ok := commands[args[0]]
	if !ok {
		return usagef("%.32q is not a command: say keygen, run, load, status or reset (autoinstalld -h explains)", args[0])
	}
	return command(ctx, args[1:], stdout, stderr)
}

// newFlags makes the flags that every command has.
func newFlags(name string, stdout io.Writer) (*flag.FlagSet, *string) {
	fs := flag.NewFlagSet("autoinstalld "+name, flag.ContinueOnError)
	fs.SetOutput(stdout)
	return fs, fs.String("dir", "", "`folder` of the device (required)")
}

// parse reads flags; files is how many arguments may follow them.
func parse(fs *flag.FlagSet, args []string, dir *string, files int) error {
	out := fs.Output()
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(out)
		fmt.Fprintf(out, "Usage of %s:\n", fs.Name())
		fs.PrintDefaults()
		return err
	}
	switch {
	case err != nil:
		return usageError{fmt.Errorf("%w (%s -h explains)", err, fs.Name())}
	case *dir == "":
		return usagef("-dir is required: the folder of the device")
	case fs.NArg() > files:
		return usagef("unexpected argument %.64q", fs.Arg(files))
	case fs.NArg() < files:
		return usagef("the name of a file is missing at the end")
	}
	return nil
}
