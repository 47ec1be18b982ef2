// Command imageget fetches software images over links that break, keeps a
// signed repository, and serves what it holds to an HA peer. It is the reference
// program of package download: flags and a configuration file in, library calls,
// progress out.
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

const usage = `imageget fetches software images, whatever the link does.

  imageget get -config F -version V -out FILE [-sequenced -role first|second] [-json] [-lab]
  imageget versions -config F [-json] [-lab]
  imageget show -config F [-version V] [-json] [-lab]
  imageget pause -config F -version V [-lab]
  imageget resume -config F -version V [-json] [-lab]
  imageget serve -dir DIR -listen ADDR [-max-bandwidth BITS]
  imageget repo make -dir DIR -key KEY [-digest sha256|sha512-256] [-valid DURATION] IMAGE...

Run "imageget COMMAND -h" for a command's flags. A configuration file looks like this:

  {"access-mode": "prefer-conductor",
   "sources": [{"kind": "peer", "url": "http://169.254.1.2:8080/"},
               {"kind": "conductor-1", "url": "https://conductor1.example.com/images/"},
               {"kind": "artifactory", "url": "https://images.example.com/"}],
   "trusted-keys": ["/etc/imageget/release.pub"],
   "state": "/var/lib/imageget",
   "enable-timeout": true, "timeout": 10800, "attempts": 10,
   "maximum-retry-delay": 3600, "max-bandwidth": "unlimited"}
`

// usageError is a mistake in the call: exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitStatus(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr), os.Stderr))
}

// exitStatus prints an error on one line: 2 for a mistake in the call or the
// configuration, 1 for everything else.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(stderr, "imageget: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	var mistake usageError
	if errors.As(err, &mistake) {
		return 2
	}
	return 1
}

func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("no command is given: want get, versions, show, pause, resume, serve or repo make (imageget -h explains)")
	}
	command, rest := args[0], args[1:]
	switch command {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "get":
		return runGet(ctx, rest, stdout, stderr)
	case "versions":
		return runVersions(ctx, rest, stdout, stderr)
	case "show":
		return runShow(rest, stdout)
	case "pause":
		return runPause(rest, stdout)
	case "resume":
		return runResume(ctx, rest, stdout, stderr)
	case "serve":
		return runServe(ctx, rest, stdout, stderr)
	case "repo":
		if len(rest) == 0 || rest[0] != "make" {
			return usagef("repo: want \"repo make -dir DIR -key KEY IMAGE...\"")
		}
		return runRepoMake(ctx, rest[1:], stdout)
	}
	return usagef("command %.40q: want get, versions, show, pause, resume, serve or repo make", command)
}

// flags is one command's flag set; -h explains it on stdout.
func newFlags(name, synopsis string, stdout io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {
		fmt.Fprintf(stdout, "usage: imageget %s %s\n", name, synopsis)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		fs.SetOutput(io.Discard)
	}
	return fs
}

// parse reads the flags and refuses arguments that are left over.
func parse(fs *flag.FlagSet, args []string, operands bool) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usagef("%s: %w", fs.Name(), err)
	}
	if !operands && fs.NArg() > 0 {
		return usagef("%s: argument %.80q is not expected", fs.Name(), fs.Arg(0))
	}
	return nil
}
