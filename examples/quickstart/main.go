// Command quickstart tells the whole story in one process: a conductor, a
// router with a simulated TPM, and everything that happens between first
// power-on and trusted operation. It needs no arguments, no network and no
// root, and leaves nothing behind.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

// timeout ends a run that hangs.
const timeout = 2 * time.Minute

// errReported is returned when a failure was already told to the reader.
var errReported = errors.New("a step failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errReported):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(2)
	}
}

// step is one thing that happens. do returns what it has to show.
type step struct {
	name  string
	title string
	do    func(ctx context.Context, w *world) (facts, error)
}

// facts are what a step found out, in the order in which a person reads them.
type facts []fact

type fact struct{ name, value string }

// MarshalJSON writes an object that keeps the order.
func (f facts) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, fact := range f {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(fact.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(fact.value)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	return append(out, '}'), nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print one JSON object with a field per step")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "Usage: quickstart [-json]\n\nRuns a conductor and a router with a simulated TPM in one process and shows each step.\n\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("takes no arguments, got %q; try -h", flags.Arg(0))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if *asJSON {
		return tellJSON(ctx, w, stdout)
	}
	return tell(ctx, w, stdout)
}

// tell prints each step as it happens.
func tell(ctx context.Context, w *world, out io.Writer) error {
	begin := time.Now()
	for i, s := range story {
		fmt.Fprintf(out, "%2d. %s\n", i+1, s.title)
		found, err := s.do(ctx, w)
		for _, f := range found {
			fmt.Fprintf(out, "      %-22s %s\n", f.name, f.value)
		}
		if err != nil {
			fmt.Fprintf(out, "    FAILED: %v\n", err)
			return errReported
		}
	}
	fmt.Fprintf(out, "\nAll %d steps done in %.1f s.\n", len(story), time.Since(begin).Seconds())
	return nil
}

// result is what -json says of a step.
type result struct {
	OK           bool   `json:"ok"`
	Error        string `json:"error,omitempty"`
	Milliseconds int64  `json:"milliseconds"`
	Facts        facts  `json:"facts,omitempty"`
}

// tellJSON prints one object when everything is over. The steps after one that
// failed are not in it.
func tellJSON(ctx context.Context, w *world, out io.Writer) error {
	all := map[string]any{}
	failed := false
	for _, s := range story {
		begin := time.Now()
		found, err := s.do(ctx, w)
		r := result{OK: err == nil, Facts: found, Milliseconds: time.Since(begin).Milliseconds()}
		if err != nil {
			r.Error = err.Error()
		}
		all[s.name] = r
		if err != nil {
			failed = true
			break
		}
	}
	all["ok"] = !failed
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	if failed {
		return errReported
	}
	return nil
}
