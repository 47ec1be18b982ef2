package autoinstall

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall/internal/serial"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
)

// Config is what a [Device] is made of.
type Config struct {
	// Serial identifies the device: 1 to 64 letters, digits, '-', '_', '.' and
	// ':'. Required.
	Serial string
	// Dir holds the device's record: what was installed, the counter, the
	// status. It is made when it is not there, for the owner only. Required.
	Dir string
	// Installer puts configurations into force. Required.
	Installer Installer
	// Discoverer says where to look. Required for Run and Once.
	Discoverer Discoverer
	// Fetcher reads what was found. Required for Run and Once.
	Fetcher Fetcher

	// Keys open messages, tried in this order. Without any, encrypted files
	// are refused.
	Keys []Key
	// EncryptedOnly refuses plain files (RFC 8886 section 4.3).
	EncryptedOnly bool
	// RequireAuthenticated takes only messages whose encryption shows a change
	// (AES-GCM, RFC 5083): plain files and AES-CBC, which the appendix of RFC
	// 8886 uses, are refused with [ErrPlain] before a key is touched. It
	// includes EncryptedOnly.
	RequireAuthenticated bool
	// Owner says whose configurations are taken. nil takes everybody's, as RFC
	// 8886 does.
	Owner *OwnerPolicy
	// Sane checks a configuration before it is installed. It is called with
	// the final content and must not keep or change it. nil takes everything
	// but empty content.
	Sane func(ctx context.Context, content []byte) error
	// UnixNewlines turns CR LF into LF before Sane and Installer see the
	// content, when every line of it ends so. "openssl smime" and "openssl cms"
	// without -binary write CR LF; leave it off for binary configurations.
	UnixNewlines bool
	// MaxSize bounds files in bytes. 0 is [DefaultMaxSize].
	MaxSize int64
	// Schedule says when to try again. The zero value is RFC 8886's.
	Schedule Schedule

	// ClockFloor is a time that is certainly past, such as when the firmware
	// was built. Certificates of owners are checked at this time when the clock
	// is behind it, as it is on devices that forget the time without power.
	ClockFloor time.Time
	// Now is the clock. nil is time.Now.
	Now func() time.Time
	// Alarms hears of a configuration that was refused, or that does not come.
	Alarms mooring.AlarmSink
	// Events hears of every installation and refusal.
	Events mooring.EventSink
	// Logger gets a line for each step. nil is silent.
	Logger *slog.Logger

	disk durable.Writer
}

// Key is a private key that configurations may be encrypted to.
type Key struct {
	// Name is for people, such as "vendor".
	Name string
	// Private is a crypto.Decrypter with an RSA key of at least 2048 bits, an
	// ecdh.KeyExchanger or an *ecdsa.PrivateKey on P-256, P-384 or P-521. Both
	// interfaces can be served by a TPM.
	Private any
	// Certificates are those that were published for the key. They only help
	// to find the right recipient in a message; nothing in them is checked
	// (section 3.1).
	Certificates []*x509.Certificate
}

// String returns the name and nothing of the key.
func (k Key) String() string { return "key " + k.Name }

// GoString is String.
func (k Key) GoString() string { return k.String() }

// LogValue keeps the key out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// OwnerPolicy says whose configurations a device takes.
type OwnerPolicy struct {
	// Roots are the trusted owners: certificate authorities, or the very
	// certificates that sign. Required.
	Roots *x509.CertPool
	// Optional takes configurations without a signature too. A signature that
	// is there has to be good all the same. Once a counter was installed, none
	// without a signature is taken any more, as it has no counter.
	Optional bool
	// RequireSerial refuses configurations that don't name this device. One
	// that names another device is always refused.
	RequireSerial bool
	// RequireCounter refuses configurations without a counter. Once a counter
	// was installed it is required in any case.
	RequireCounter bool
}

// Installer puts configurations into force. Calls come one at a time, from the
// process that holds the lock on Config.Dir. The content belongs to the device
// and must not be kept or changed after the call.
type Installer interface {
	// Current returns the digest of the whole configuration in force, and ""
	// when there is none: then the device looks for one. It is the word on
	// whether an installation that was interrupted has come into force.
	Current(ctx context.Context) (digest string, err error)
	// Install puts c into force, whole or not at all, so that it survives a
	// loss of power once nil is returned. A part (Configuration.Part) may be
	// handed over a second time after a crash and has to be recognised by its
	// digest.
	Install(ctx context.Context, c *Configuration) error
	// Remove takes the configuration out of force: a factory reset.
	Remove(ctx context.Context) error
}

// Configuration is a configuration that passed every check.
type Configuration struct {
	// Content is the configuration itself.
	Content []byte
	// Digest is the SHA-256 of Content in lower-case hex.
	Digest string
	// Part says that it is a part, to be merged into the one in force.
	Part bool
	// Source is where it came from.
	Source string
	// Encrypted says that it came encrypted; Authenticated that the encryption
	// would have shown a change (AES-GCM).
	Encrypted, Authenticated bool
	// Key is the name of the key that opened it.
	Key string
	// Owner is the certificate of the trusted owner who signed it, nil when
	// nobody trusted did.
	Owner *x509.Certificate
	// Counter is the owner's, 0 when there is none.
	Counter uint64
}

// Device installs configurations. It is safe for concurrent use; attempts run
// one at a time, across processes too.
type Device struct {
	cfg  Config
	keys []openKey
}

type openKey struct {
	name      string
	decrypter *cms.Decrypter
}

// New checks cfg and names every bad field. It does no I/O.
func New(cfg Config) (*Device, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("autoinstall: "+format, args...))
	}
	if err := serial.Check(cfg.Serial); err != nil {
		bad("Serial: %w", err)
	}
	if cfg.Dir == "" {
		bad("Dir is required")
	}
	if cfg.Installer == nil {
		bad("Installer is required")
	}
	if cfg.Owner != nil && cfg.Owner.Roots == nil {
		bad("Owner.Roots is required")
	}
	if cfg.MaxSize < 0 {
		bad("MaxSize is negative")
	}
	setDefault(&cfg.MaxSize, DefaultMaxSize)
	if cfg.Owner != nil {
		owner := *cfg.Owner
		cfg.Owner = &owner
	}
	d := &Device{}
	for _, k := range cfg.Keys {
		dec, err := cms.NewDecrypter(cms.DecrypterConfig{
			Key: k.Private, Certificates: k.Certificates, MaxSize: cfg.MaxSize,
			RequireAuthenticated: cfg.RequireAuthenticated,
		})
		if err != nil {
			bad("Keys: %q: %w", k.Name, err)
			continue
		}
		d.keys = append(d.keys, openKey{k.Name, dec})
	}
	if err := cfg.Schedule.setDefaults(); err != nil {
		bad("Schedule: %w", err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg.Keys = nil
	cfg.EncryptedOnly = cfg.EncryptedOnly || cfg.RequireAuthenticated
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d.cfg = cfg
	return d, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
