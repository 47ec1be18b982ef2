package crl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl/internal/fetch"
)

// FailPolicy says what an answer means for a connection that is neither good
// nor revoked.
type FailPolicy uint8

const (
	// FailHard refuses certificates whose status is unknown, and stale ones once
	// the time of grace is over. It is the default.
	FailHard FailPolicy = iota
	// FailSoft accepts them. Revoked certificates are refused all the same.
	FailSoft
)

// Config says how a [Manager] works. Directory and Issuers are needed, all else
// has a default.
type Config struct {
	// Directory holds all files. It is made when it is missing.
	Directory string
	// Issuers are the trust anchors: a list counts when its signer is one of
	// them or leads to one.
	Issuers []*x509.Certificate
	// Intermediates help to build paths from signers of lists and issuers of
	// certificates to Issuers. They need no trust.
	Intermediates []*x509.Certificate
	// Certificates are in use here: their distribution points are fetched from,
	// and OnRevoked is called for them. [Manager.Learn] adds to them.
	Certificates []*x509.Certificate
	// URLs are where lists are fetched from: http, https or file.
	URLs []string
	// PollingInterval is the time between fetches, 1 hour to 168 hours; default
	// 24 hours. A list that ends before is fetched before it ends.
	PollingInterval time.Duration
	// BackoffInterval is the wait after a first failure, which grows with
	// further ones, and the random delay at most that is added to each polling
	// interval; 1 second to 1 hour, default 60 seconds.
	BackoffInterval time.Duration
	// Fail is the policy of VerifyConnection and Permit; default FailHard.
	Fail FailPolicy
	// Grace is how long past its end a list permits certificates that it does
	// not revoke under FailHard; default 72 hours, at most 30 days, none when
	// negative.
	Grace time.Duration
	// MaxListBytes and MaxEntries bound one list, see the package comment for
	// the memory that follows; default 128 MiB and 4 million (4<<20) entries.
	MaxListBytes int64
	MaxEntries   int
	// AllowPrivate lets addresses that come out of certificates and lists reach
	// private, loopback and link-local hosts.
	AllowPrivate bool
	// AllowUnnumbered accepts lists of version 1 and lists without a CRL number.
	// Only their dates protect those from rollback.
	AllowUnnumbered bool
	// ReadOnly is for a manager beside the one that keeps Directory, in another
	// process: Load takes over what that one published and writes nothing, and
	// every method that would write fails.
	ReadOnly bool
	// TLS is for https; nil means the roots of the system. It must not check
	// revocation with this manager.
	TLS *tls.Config
	// Node is the name of this node in events.
	Node string
	// Alarms, Events and Logger may be nil.
	Alarms mooring.AlarmSink
	Events mooring.EventSink
	Logger *slog.Logger
	// OnRevoked is called once for each certificate in use that becomes known
	// as revoked or on hold. It must not call the manager's fetching methods.
	OnRevoked func(ctx context.Context, cert *x509.Certificate, r Result)
	// Now replaces time.Now.
	Now func() time.Time
}

func defaulted[T time.Duration | int64 | int](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}

// check fills in defaults and reports all bad fields at once.
func (c *Config) check() error {
	defaulted(&c.PollingInterval, defaultPolling)
	defaulted(&c.BackoffInterval, defaultBackoff)
	defaulted(&c.Grace, defaultGrace)
	defaulted(&c.MaxListBytes, defaultListBytes)
	defaulted(&c.MaxEntries, defaultEntries)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Directory == "" {
		bad("directory is missing")
	}
	if len(c.Issuers) == 0 {
		bad("no issuers: without a certificate authority no list can be verified")
	}
	for _, list := range [][]*x509.Certificate{c.Issuers, c.Intermediates, c.Certificates} {
		for _, cert := range list {
			if cert == nil {
				bad("a certificate is nil")
			}
		}
	}
	for _, u := range c.URLs {
		if err := fetch.Check(u); err != nil {
			errs = append(errs, err)
		}
	}
	if len(c.URLs) > maxSources {
		bad("more than %d addresses", maxSources)
	}
	if c.PollingInterval < minPolling || c.PollingInterval > maxPolling {
		bad("polling interval %s is not between %s and %s", c.PollingInterval, minPolling, maxPolling)
	}
	if c.BackoffInterval < minBackoff || c.BackoffInterval > maxBackoff {
		bad("backoff interval %s is not between %s and %s", c.BackoffInterval, minBackoff, maxBackoff)
	}
	if c.Grace > maxGrace {
		bad("grace %s is longer than %s", c.Grace, maxGrace)
	}
	if c.MaxListBytes < 0 || c.MaxListBytes > maxListBytes {
		bad("limit of %d bytes is not between 1 and %d", c.MaxListBytes, int64(maxListBytes))
	}
	if c.MaxEntries < 0 || c.MaxEntries > maxEntries {
		bad("limit of %d entries is not between 1 and %d", c.MaxEntries, maxEntries)
	}
	if c.Fail > FailSoft {
		bad("policy %d is neither hard nor soft", c.Fail)
	}
	if len(errs) > 0 {
		return fmt.Errorf("crl: bad configuration: %w", errors.Join(errs...))
	}
	c.Grace = max(c.Grace, 0)
	return nil
}
