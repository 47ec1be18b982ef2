package integrity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/mooringlib/mooring/integrity/cause"
)

// EmergencySink shows an emergency text to whoever is near the machine. It is
// called again for each failed attempt, with several lines of text that end in a
// newline. It must not block for longer than a few seconds.
type EmergencySink interface {
	Emergency(ctx context.Context, text string) error
}

// EmergencyText is what an operator reads about an integrity event: what
// happened, its stable code, and what helps.
func EmergencyText(err error) string {
	code := cause.Of(err)
	if code == "" {
		code = cause.Unknown
	}
	var b strings.Builder
	b.WriteString("EMERGENCY: the integrity of this system is compromised.\n")
	fmt.Fprintf(&b, "What happened: %s (%s).\n", code.Text(), code)
	var e *cause.Error
	if errors.As(err, &e) {
		if e.Path != "" {
			fmt.Fprintf(&b, "Where: %.256q.\n", e.Path)
		}
		if len(e.PCRs) > 0 {
			fmt.Fprintf(&b, "Changed PCR: %s.\n", strings.Trim(fmt.Sprint(e.PCRs), "[]"))
		}
	}
	b.WriteString("Networking stays blocked.\n")
	if code.Final() {
		b.WriteString("Only a clean install or an RMA helps. A factory reset does not: it needs directories that stay locked.\n")
	} else {
		fmt.Fprintf(&b, "First: %s.\n", code.Remedy())
		b.WriteString("If that does not help, only a clean install or an RMA does. A factory reset does not: it needs directories that stay locked.\n")
	}
	return b.String()
}

// Consoles is an [EmergencySink] that writes to the kernel log at emergency level
// and to consoles and terminals. It needs root. It is safe for concurrent use.
type Consoles struct {
	// KernelLog is the kernel's log device. Empty means /dev/kmsg, "-" means
	// none.
	KernelLog string
	// Paths are the consoles. Empty means every console of the kernel and every
	// terminal that somebody is logged in at. A regular file is appended to,
	// and made where it is missing, but not below /dev.
	Paths []string
}

// Emergency implements [EmergencySink]. Every place is tried; the error joins
// what went wrong.
func (c Consoles) Emergency(ctx context.Context, text string) error {
	if len(text) > maxEmergency {
		text = text[:maxEmergency]
	}
	var errs []error
	if c.KernelLog != "-" {
		log := c.KernelLog
		if log == "" {
			log = "/dev/kmsg"
		}
		errs = append(errs, kernelLog(log, text))
	}
	paths := c.Paths
	if len(paths) == 0 {
		paths = systemConsoles()
	}
	// Terminals in raw mode need the carriage return.
	line := "\r\n" + strings.ReplaceAll(text, "\n", "\r\n")
	if ctx.Err() != nil {
		return errors.Join(append(errs, ctx.Err())...)
	}
	// All at once, so that terminals that somebody stopped delay no other one,
	// and together no longer than one of them.
	failed := make([]error, min(len(paths), maxConsoles))
	var all sync.WaitGroup
	for i := range failed {
		all.Go(func() { failed[i] = writeConsole(paths[i], line, text) })
	}
	all.Wait()
	return errors.Join(append(errs, failed...)...)
}
