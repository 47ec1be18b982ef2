package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/mooringlib/mooring/autoinstall"
)

// DefaultTimeout is how long a Client looks for a server in one attempt. It is a
// little less than the time between attempts, so that a device whose link or
// server comes up late is not left waiting.
const DefaultTimeout = 4 * time.Minute

const (
	maxVendorClass = 128
	// refusedWait is how long other servers are waited for after an answer was
	// refused.
	refusedWait = 3 * time.Second
)

// Config is what a [Client] is made of.
type Config struct {
	// Interface is the name of the link, such as "eth0". Required.
	Interface string
	// Serial is the device's; SERIAL.enc and SERIAL.cfg are looked for where a
	// server names no file. Required.
	Serial string
	// VendorClass is sent as option 60, so that a server can tell our devices
	// from others. Empty is not sent.
	VendorClass string
	// Vendor gives sub-options of option 43 a meaning.
	Vendor VendorOptions
	// V6 asks DHCPv6 servers too. The first usable answer counts.
	V6 bool
	// Timeout bounds one call of Discover. 0 is [DefaultTimeout].
	Timeout time.Duration
	// Network puts addresses on the interface. nil is the system's own way on
	// Linux; a product that has its own network management takes its place.
	Network Network
	// Logger gets a line for each step. nil is silent.
	Logger *slog.Logger
}

// Network sets an interface up. Calls come one at a time for each family.
type Network interface {
	// Up makes the interface able to send. It is called before anything is
	// sent and has to be idempotent.
	Up(ctx context.Context, iface string) error
	// Apply puts an address and routes on the interface. undo takes them away
	// again and is called once.
	Apply(ctx context.Context, iface string, s Settings) (undo func() error, err error)
}

// Settings is what a server said about the network.
type Settings struct {
	// Address is the device's, with the length of the prefix of the link.
	Address netip.Prefix
	// Routers are default routes, best first.
	Routers []netip.Addr
}

// Client asks DHCP servers. It implements [autoinstall.Discoverer].
type Client struct{ cfg Config }

var _ autoinstall.Discoverer = (*Client)(nil)

// ErrNoAnswer: no server answered with a place for the configuration.
var ErrNoAnswer = errors.New("dhcp: no server named a place for the configuration")

// New checks cfg and names every bad field. It does no I/O.
func New(cfg Config) (*Client, error) {
	var errs []error
	if cfg.Interface == "" || len(cfg.Interface) > 15 {
		errs = append(errs, fmt.Errorf("dhcp: Interface %.32q is not the name of an interface", cfg.Interface))
	}
	if err := autoinstall.CheckSerial(cfg.Serial); err != nil {
		errs = append(errs, fmt.Errorf("dhcp: Serial: %w", err))
	}
	if len(cfg.VendorClass) > maxVendorClass {
		errs = append(errs, fmt.Errorf("dhcp: VendorClass is longer than %d octets", maxVendorClass))
	}
	if cfg.Timeout < 0 {
		errs = append(errs, errors.New("dhcp: Timeout is negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Network == nil {
		cfg.Network = systemNetwork{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg}, nil
}

// found is the outcome of one family.
type found struct {
	loc *autoinstall.Location
	err error
}

// Discover implements [autoinstall.Discoverer].
func (c *Client) Discover(ctx context.Context) (*autoinstall.Location, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, fmt.Errorf("%w within %v", ErrNoAnswer, c.cfg.Timeout))
	defer cancel()
	if err := c.cfg.Network.Up(ctx, c.cfg.Interface); err != nil {
		return nil, err
	}
	families := []func(context.Context) (*autoinstall.Location, error){c.discover4}
	if c.cfg.V6 {
		families = append(families, c.discover6)
	}
	results := make(chan found, len(families))
	for _, f := range families {
		go func() {
			loc, err := f(ctx)
			results <- found{loc, err}
		}()
	}
	var first *autoinstall.Location
	var errs []error
	// Every goroutine is waited for: the first to find something ends the rest.
	for range families {
		r := <-results
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
			if errors.Is(r.err, autoinstall.ErrRefused) {
				defer time.AfterFunc(refusedWait, cancel).Stop()
			}
		case first == nil:
			first = r.loc
			cancel()
		default:
			errs = append(errs, r.loc.Release(context.WithoutCancel(ctx)))
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, errors.Join(errs...)
}

// location turns an answer into a Location.
func (c *Client) location(a Answer, resolvers []netip.Addr) (*autoinstall.Location, error) {
	urls, err := a.URLs(autoinstall.FileNames(c.cfg.Serial)...)
	if err != nil {
		return nil, refuse("answer", err)
	}
	c.cfg.Logger.Info("a server named a place for the configuration", slog.Any("urls", urls))
	return &autoinstall.Location{URLs: urls, Resolvers: resolvers}, nil
}

// waitError is the reason why a wait for servers ended.
func waitError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
