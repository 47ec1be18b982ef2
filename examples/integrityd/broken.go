package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
)

const (
	defaultStateDir = "/var/lib/integrity"
	// Between two attempts to use a configuration that cannot be used.
	brokenRetryMin = 5 * time.Second
	brokenRetryMax = 5 * time.Minute
)

// salvage reads what it can of a configuration that cannot be used: where
// networking is allowed and where emergencies are shown.
func salvage(path string) *config {
	c := new(config)
	var fields map[string]json.RawMessage
	if data, err := readLimited(path); err == nil && json.Unmarshal(data, &fields) == nil {
		for name, to := range map[string]any{
			"state_dir": &c.StateDir, "network_flag": &c.NetworkFlag, "console": &c.Console,
			"retry_min": &c.RetryMin, "retry_max": &c.RetryMax,
		} {
			// What cannot be read keeps its default.
			if raw, ok := fields[name]; ok {
				_ = json.Unmarshal(raw, to)
			}
		}
	}
	if !filepath.IsAbs(c.StateDir) {
		c.StateDir = defaultStateDir
	}
	if c.NetworkFlag == "" {
		c.NetworkFlag = filepath.Join(c.StateDir, "network-allowed")
	}
	if c.RetryMin <= 0 {
		c.RetryMin = duration(brokenRetryMin)
	}
	if c.RetryMax <= 0 {
		c.RetryMax = duration(brokenRetryMax)
	}
	return c
}

// refuse makes an integrity event of a configuration that cannot be used: it
// blocks networking and writes the emergency text.
func refuse(ctx context.Context, path string, err error, stderr io.Writer) error {
	c := salvage(path)
	err = cause.At(cause.ConfigInvalid, path, err)
	if berr := (flagGate{c.NetworkFlag}).Block(ctx, string(cause.ConfigInvalid)); berr != nil {
		err = errors.Join(err, fmt.Errorf("block network: %w", berr))
	}
	if eerr := newEmergency(c.Console, stderr).Emergency(ctx, integrity.EmergencyText(err)); eerr != nil {
		fmt.Fprintf(stderr, "integrityd: emergency text was not shown everywhere: %q\n", eerr.Error())
	}
	return err
}

// openInTheEnd opens the system for the service. The service never ends because of
// its configuration: that would let systemd start what only waits for it. It
// returns an error only when ctx ends.
func openInTheEnd(ctx context.Context, path string, stderr io.Writer) (*system, error) {
	notify := integrity.SystemdNotify(os.Getenv("NOTIFY_SOCKET"))
	for wait := time.Duration(0); ; {
		s, err := open(path, stderr, true)
		if err == nil {
			return s, nil
		}
		err = refuse(ctx, path, err, stderr)
		fmt.Fprintf(stderr, "integrityd: integrity event: %q\n", err.Error())
		c := salvage(path)
		wait = min(max(2*wait, time.Duration(c.RetryMin)), time.Duration(max(c.RetryMin, c.RetryMax)))
		if nerr := notify(fmt.Sprintf("STATUS=integrity event %s, next attempt in %s", cause.Of(err), wait)); nerr != nil {
			fmt.Fprintf(stderr, "integrityd: service manager was not told: %q\n", nerr.Error())
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}
