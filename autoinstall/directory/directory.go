package directory

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall"
)

// Config is what a [Server] is made of.
type Config struct {
	// Store keeps what is published. Required.
	Store *Store
	// Tokens are manufacturing's. Without any, nobody publishes.
	Tokens []Token
	// WrapKey and WrapCertificate sign the certificates that raw public keys
	// are wrapped into. Without them, raw keys are refused. Don't use the CA
	// that operators trust for HTTPS.
	WrapKey         crypto.Signer
	WrapCertificate *x509.Certificate
	// Policy refuses a certificate beside the rules that are always checked. It
	// may be called concurrently. nil takes all.
	Policy func(ctx context.Context, c Candidate) error
	// UniqueKeys refuses a public key that stands under another serial number,
	// so that a factory which clones keys is found out. It is off because a
	// device may be published under two identifiers.
	UniqueKeys bool
	// LookupsPerMinute and PublishesPerMinute are the limits for one address
	// (one /64 for IPv6). 0 is 600. In total a hundred times as many
	// are taken. Requests without an accepted token are counted apart and don't
	// use up the limit of those who publish.
	LookupsPerMinute, PublishesPerMinute int
	// Events hears of everything that is published, replaced or refused.
	// Requests without an accepted token come as "directory.unauthorized": ten
	// in a minute, and one more event with the number of all others.
	Events mooring.EventSink
	// Now is the clock. nil is time.Now.
	Now func() time.Time
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Token lets somebody publish.
type Token struct {
	// Name is for the audit record, such as "factory-2".
	Name string
	// SHA256 is the hash of the secret. The secret has 32 random bytes, so a
	// plain hash is enough.
	SHA256 [sha256.Size]byte
}

// Candidate is what somebody wants to publish, for Config.Policy.
type Candidate struct {
	Serial string
	// Certificate is as sent, or as it will be wrapped.
	Certificate *x509.Certificate
	// Wrapped says that a raw key was sent.
	Wrapped bool
	// By is the name of the token.
	By string
}

// Server publishes and serves certificates. It is an http.Handler and safe
// for concurrent use.
type Server struct {
	cfg     Config
	lookups *limiter
	// publishes is for those with a token only, so that strangers can't use it
	// up.
	publishes *limiter
	guesses   *limiter
	strangers strangers
}

// New checks cfg and names every bad field. It does no I/O.
func New(cfg Config) (*Server, error) {
	var errs []error
	if cfg.Store == nil {
		errs = append(errs, errors.New("directory: Store is required"))
	}
	if (cfg.WrapKey == nil) != (cfg.WrapCertificate == nil) {
		errs = append(errs, errors.New("directory: WrapKey and WrapCertificate go together"))
	}
	if cfg.LookupsPerMinute < 0 || cfg.PublishesPerMinute < 0 {
		errs = append(errs, errors.New("directory: limits can't be negative"))
	}
	for _, t := range cfg.Tokens {
		if t.Name == "" || t.SHA256 == [sha256.Size]byte{} {
			errs = append(errs, fmt.Errorf("directory: token %q has no name or no hash", t.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.LookupsPerMinute == 0 {
		cfg.LookupsPerMinute = 600
	}
	if cfg.PublishesPerMinute == 0 {
		cfg.PublishesPerMinute = 600
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, lookups: newLimiter(cfg.LookupsPerMinute),
		publishes: newLimiter(cfg.PublishesPerMinute), guesses: newLimiter(cfg.PublishesPerMinute),
	}, nil
}

// authorize returns the name of the token whose secret this is. All tokens are
// compared, each in constant time.
func (s *Server) authorize(secret []byte) (name string, ok bool) {
	sum := sha256.Sum256(secret)
	for _, t := range s.cfg.Tokens {
		if subtle.ConstantTimeCompare(sum[:], t.SHA256[:]) == 1 {
			name, ok = t.Name, true
		}
	}
	return name, ok
}

// Publication is one request to publish.
type Publication struct {
	Serial string
	// Body is a certificate or a public key (SubjectPublicKeyInfo), in PEM or
	// DER.
	Body []byte
	// By is who is responsible, for the record.
	By string
	// Replaces is the SHA-256 in hex of the certificate to be replaced, and
	// Reason says why. Both are empty for a new device.
	Replaces, Reason string
}

// Publish checks and stores. published is false when the same was published
// before.
func (s *Server) Publish(ctx context.Context, p Publication) (v Version, published bool, err error) {
	v, err = s.check(ctx, p)
	if err == nil {
		v, published, err = s.cfg.Store.Put(ctx, p.Serial, v, s.cfg.UniqueKeys)
	}
	s.audit(ctx, p, v, published, err)
	return v, published, err
}

func (s *Server) check(ctx context.Context, p Publication) (Version, error) {
	refuse := func(err error) (Version, error) { return Version{}, fmt.Errorf("%w: %w", ErrRefused, err) }
	if err := autoinstall.CheckSerial(p.Serial); err != nil {
		return refuse(err)
	}
	if (p.Replaces == "") != (p.Reason == "") {
		return refuse(errors.New("a replacement needs the certificate to be replaced and a reason"))
	}
	if err := checkReason(p.Reason); err != nil {
		return refuse(err)
	}
	v := Version{Time: s.cfg.Now().UTC(), By: p.By, Replaces: p.Replaces, Reason: p.Reason}
	cert, key, err := parseBody(p.Body)
	if err != nil {
		return refuse(err)
	}
	if cert == nil {
		if err := checkKey(key); err != nil {
			return refuse(err)
		}
		if cert, err = s.wrap(p.Serial, key); err != nil {
			return Version{}, err
		}
		v.Wrapped = true
	} else if err := checkKey(cert.PublicKey); err != nil {
		return refuse(err)
	}
	if s.cfg.Policy != nil {
		if err := s.cfg.Policy(ctx, Candidate{p.Serial, cert, v.Wrapped, p.By}); err != nil {
			return refuse(fmt.Errorf("policy: %w", err))
		}
	}
	v.fingerprints(cert)
	return v, nil
}

func checkReason(s string) error {
	if len(s) > maxReason {
		return fmt.Errorf("the reason is longer than %d octets", maxReason)
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == 0xFFFD {
			return errors.New("the reason holds a control character")
		}
	}
	return nil
}

// parseBody takes one certificate or one public key, in PEM or DER.
func parseBody(b []byte) (*x509.Certificate, crypto.PublicKey, error) {
	if len(b) == 0 {
		return nil, nil, errors.New("nothing was sent")
	}
	if len(b) > MaxBody {
		return nil, nil, fmt.Errorf("more than %d bytes were sent", MaxBody)
	}
	kind := ""
	if block, rest := pem.Decode(b); block != nil {
		if next, _ := pem.Decode(rest); next != nil {
			return nil, nil, errors.New("more than one PEM block was sent")
		}
		if block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" || block.Type == "RSA PRIVATE KEY" {
			return nil, nil, errors.New("a private key was sent: it must never leave the device; take the device out of the line")
		}
		b, kind = block.Bytes, block.Type
	}
	if kind == "" || kind == "CERTIFICATE" {
		cert, err := x509.ParseCertificate(b)
		if err == nil {
			return cert, nil, nil
		}
		if kind != "" {
			return nil, nil, fmt.Errorf("the certificate can't be read: %w", err)
		}
	}
	if kind == "" || kind == "PUBLIC KEY" {
		key, err := x509.ParsePKIXPublicKey(b)
		if err == nil {
			return nil, key, nil
		}
		return nil, nil, errors.New("what was sent is neither a certificate nor a public key")
	}
	return nil, nil, fmt.Errorf("a %.32q was sent, not a certificate or a public key", kind)
}

// checkKey takes the keys that a configuration can be encrypted to.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, not %d to %d", n, minRSABits, maxRSABits)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("key on the curve %s", k.Curve.Params().Name)
		}
		return nil
	default:
		return fmt.Errorf("a configuration can't be encrypted to a key of type %T", key)
	}
}

// wrap puts a raw public key into a certificate (RFC 8886 section 3.2).
func (s *Server) wrap(serial string, key crypto.PublicKey) (*x509.Certificate, error) {
	if s.cfg.WrapKey == nil {
		return nil, fmt.Errorf("%w: this directory takes certificates only", ErrRefused)
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("directory: random number: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: serial},
		NotBefore:    s.cfg.Now().Add(-time.Hour),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageKeyEncipherment,
	}
	if _, ok := key.(*ecdsa.PublicKey); ok {
		tmpl.KeyUsage = x509.KeyUsageKeyAgreement
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.cfg.WrapCertificate, key, s.cfg.WrapKey)
	if err != nil {
		return nil, fmt.Errorf("directory: wrap a key: %w", err)
	}
	return x509.ParseCertificate(der)
}
