package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/pki/keystore"
)

// KeyStore makes private keys and opens them. Package keystore has two.
// Implementations are safe for concurrent use.
type KeyStore interface {
	// Generate makes a key and returns the text of its file. The caller owns
	// the text.
	Generate(ctx context.Context, s keystore.Spec) ([]byte, error)
	// Open returns the key of a file. It fails when the key cannot be used
	// here, such as a key of another TPM. The signer stays usable after ctx
	// has ended.
	Open(ctx context.Context, text []byte) (crypto.Signer, error)
}

// RevocationChecker says whether a certificate is revoked. Implementations are
// safe for concurrent use and answer from what they have: a handshake waits.
// One that also has the method
//
//	RevocationGeneration() uint64
//
// tells by a changed number that its data has changed; otherwise call
// [Manager.RevocationChanged].
type RevocationChecker interface {
	// CheckRevocation answers for cert, which issuer has issued. When revoked
	// is true, reason and at say why and since when. When err is not nil the
	// answer is not known, for the reason that err gives. Both false and nil
	// mean that the certificate is good.
	CheckRevocation(ctx context.Context, cert, issuer *x509.Certificate) (revoked bool, reason string, at time.Time, err error)
}

// Hooks is what a product does when certificates change. The methods are called
// one at a time, from the middle of the Manager's work: they return at once and
// do not call methods of the Manager that write.
type Hooks interface {
	// Reauthenticate is called once for each replacement, after key and
	// certificate are both in force.
	Reauthenticate(ctx context.Context, name string)
	// DropPeering is called, under [FailHard] only, once when a certificate
	// becomes expired, revoked or otherwise invalid.
	DropPeering(ctx context.Context, d Drop)
}

// Drop says which peering to drop.
type Drop struct {
	// Certificate is the name of the own certificate that is invalid; every
	// peering that uses it is to go. Empty when it is a peer's.
	Certificate string
	// Peer is the name of the peer whose certificate is invalid.
	Peer string
	// Reason is one line for a person.
	Reason string
}

// Renewal is a request for a new certificate in place of an old one.
type Renewal struct {
	// Name is the name of the certificate.
	Name string
	// Request is the new request, PKCS #10 in DER, signed by its key.
	Request []byte
	// Certificate is the one in force, leaf first, nil when there is none;
	// Key signs for it, so that the enrolment can authenticate with it.
	Certificate []*x509.Certificate
	Key         crypto.Signer
}

// Enroller gets certificates from an authority, such as by EST or CMP. One that
// also has the method
//
//	Renews(name string) bool
//
// is asked only for the names for which it says true.
type Enroller interface {
	// Renew returns the new certificate and its chain, leaf first. It is
	// called by one goroutine per name and may take minutes; ctx bounds it.
	// It may be called again after a failure, with another request.
	Renew(ctx context.Context, r Renewal) ([]*x509.Certificate, error)
}

// Behavior is what happens when a certificate is expired, revoked or otherwise
// invalid.
type Behavior uint8

// The behaviors, named as in the configuration of the product.
const (
	// FailSoft raises an alarm.
	FailSoft Behavior = iota
	// FailHard raises an alarm and drops the peering.
	FailHard
)

// Config is what a [Manager] is made of. Only Dir is required.
type Config struct {
	// Dir is the directory of keys and certificates. Open makes it, 0700.
	Dir string
	// Keys makes and opens private keys. Nil means keystore.Software.
	Keys KeyStore
	// Names are the configured certificates: one that is not on disk raises an
	// alarm.
	Names []string
	// AllNames makes every name that is found in Dir a configured one.
	AllNames bool
	// Node is the name of this node in audit events.
	Node string
	// Behavior is what happens with an invalid certificate.
	Behavior Behavior
	// Revocation answers whether certificates are revoked. Nil means that
	// nothing is known of revocation here, and the third check is skipped.
	Revocation RevocationChecker
	// RevocationGrace is how long a certificate that was known to be good
	// passes while Revocation has no answer. Zero means no time at all.
	RevocationGrace time.Duration
	// RevocationMaxAge is how long a good answer for a peer is used again when
	// nothing says that revocation data has changed. Zero means 5 minutes.
	RevocationMaxAge time.Duration
	// CheckInterval is how often Run looks at files and certificates. Zero
	// means 10 seconds. Thresholds of expiry are met exactly all the same.
	CheckInterval time.Duration
	// Enroller renews certificates ahead of time. Nil means nobody does.
	Enroller Enroller
	// RenewBefore is how long before the end a certificate is renewed. Zero
	// means when a third of its life is left.
	RenewBefore time.Duration
	// Hooks, Alarms and Events may be nil.
	Hooks  Hooks
	Alarms mooring.AlarmSink
	Events mooring.EventSink
	// Logger may be nil, which is silent.
	Logger *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

func (c *Config) complete() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		bad("Dir is empty")
	}
	for _, n := range c.Names {
		if err := checkName(n); err != nil {
			bad("Names: %w", err)
		}
	}
	if c.Behavior > FailHard {
		bad("Behavior is %d", c.Behavior)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"RevocationGrace", &c.RevocationGrace, 0}, {"RevocationMaxAge", &c.RevocationMaxAge, 5 * time.Minute},
		{"CheckInterval", &c.CheckInterval, 10 * time.Second}, {"RenewBefore", &c.RenewBefore, 0},
	} {
		if *d.value < 0 {
			bad("%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.Keys == nil {
		c.Keys = keystore.Software{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pki: config: %w", err)
	}
	return nil
}
