package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"

	"github.com/mooringlib/mooring/autoinstall"
)

const (
	// firstWait is the wait for an answer to the first message; the client
	// library doubles it with each repetition (RFC 2131 section 4.1).
	firstWait = 2 * time.Second
	// repetitions of one message; a new exchange begins after them.
	repetitions = 4
	// linkLocalWait is how often the link-local address is looked for, which
	// the system makes some seconds after the link is up.
	linkLocalWait = 200 * time.Millisecond
)

// mergingConn puts options into place before the library parses a packet. A
// packet that can't be read is dropped, as the library drops it.
type mergingConn struct{ net.PacketConn }

func (c mergingConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil {
			return n, addr, err
		}
		merged, err := Merge(b[:n])
		if err != nil || len(merged) > len(b) {
			continue
		}
		return copy(b, merged), addr, nil
	}
}

func (c *Client) discover4(ctx context.Context) (*autoinstall.Location, error) {
	iface, err := net.InterfaceByName(c.cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("dhcp: interface %q: %w", c.cfg.Interface, err)
	}
	conn, err := nclient4.NewRawUDPConn(iface.Name, nclient4.ClientPort)
	if err != nil {
		return nil, fmt.Errorf("dhcp: open a socket on %q: %w", iface.Name, err)
	}
	client, err := nclient4.NewWithConn(mergingConn{conn}, iface.HardwareAddr,
		nclient4.WithTimeout(firstWait), nclient4.WithRetry(repetitions))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	defer client.Close()
	lease, answer, err := c.lease4(ctx, client)
	if err != nil {
		if lease != nil {
			// The address was taken before what came with it was refused.
			err = errors.Join(err, client.Release(lease))
		}
		return nil, err
	}
	loc, err := c.location(answer, addrs(lease.ACK.DNS()))
	if err != nil {
		return nil, errors.Join(err, client.Release(lease))
	}
	settings, err := settings4(lease.ACK)
	if err != nil {
		return nil, errors.Join(err, client.Release(lease))
	}
	undo, err := c.cfg.Network.Apply(ctx, iface.Name, settings)
	if err != nil {
		return nil, errors.Join(err, client.Release(lease))
	}
	loc.Release = func(context.Context) error {
		return errors.Join(release4(iface, lease), undo())
	}
	return loc, nil
}

// lease4 asks until a server offers an address together with a place for the
// configuration, and takes it.
func (c *Client) lease4(ctx context.Context, client *nclient4.Client) (*nclient4.Lease, Answer, error) {
	// After an offer that is refused, others have a moment to make a better one.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var refused error
	var last *time.Timer
	defer func() {
		if last != nil {
			last.Stop()
		}
	}()
	usable := func(p *dhcpv4.DHCPv4) bool {
		if p.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		a, err := FromV4(p, c.cfg.Vendor)
		if err != nil {
			if refused == nil {
				last = time.AfterFunc(refusedWait, func() { cancel(err) })
			}
			refused = err
			c.cfg.Logger.Warn("offer refused", slog.Any("error", err))
		}
		return err == nil && a.Usable()
	}
	for {
		discover, err := dhcpv4.NewDiscovery(client.InterfaceAddr(), c.modifiers()...)
		if err != nil {
			return nil, Answer{}, fmt.Errorf("dhcp: %w", err)
		}
		offer, err := client.SendAndRead(ctx, client.RemoteAddr(), discover, usable)
		if err == nil {
			var lease *nclient4.Lease
			if lease, err = client.RequestFromOffer(ctx, offer, c.modifiers()...); err == nil {
				answer, err := FromV4(lease.ACK, c.cfg.Vendor)
				if err == nil && !answer.Usable() {
					answer, err = FromV4(lease.Offer, c.cfg.Vendor)
				}
				return lease, answer, err
			}
		}
		// A refusal is told when nobody else had anything better to offer.
		if refused != nil && (ctx.Err() != nil || errors.Is(err, nclient4.ErrNoResponse)) {
			return nil, Answer{}, refused
		}
		if ctx.Err() != nil {
			return nil, Answer{}, waitError(ctx, err)
		}
		var nak *nclient4.ErrNak
		if !errors.Is(err, nclient4.ErrNoResponse) && !errors.As(err, &nak) {
			return nil, Answer{}, fmt.Errorf("dhcp: %w", err)
		}
	}
}

// modifiers ask for what we read.
func (c *Client) modifiers() []dhcpv4.Modifier {
	mods := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionVendorSpecificInformation, dhcpv4.OptionTFTPServerName,
		dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerAddress,
	), dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500))}
	if c.cfg.VendorClass != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(c.cfg.VendorClass)))
	}
	return mods
}

func settings4(ack *dhcpv4.DHCPv4) (Settings, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	bits, size := ack.SubnetMask().Size()
	if ack.SubnetMask() == nil {
		bits, size = ack.YourIPAddr.DefaultMask().Size()
	}
	if !ok || !addr.IsGlobalUnicast() && !addr.IsLinkLocalUnicast() || size != 32 || bits == 0 {
		return Settings{}, refuse("address", fmt.Errorf("%v with mask %v is not an address to take", ack.YourIPAddr, ack.SubnetMask()))
	}
	return Settings{Address: netip.PrefixFrom(addr, bits), Routers: addrs(ack.Router())}, nil
}

func addrs(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips[:min(len(ips), 4)] {
		if a, ok := netip.AddrFromSlice(ip); ok && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// release4 tells the server that the address is free again (RFC 2131 section
// 4.4.6), from the address while it is still there.
func release4(iface *net.Interface, lease *nclient4.Lease) error {
	msg, err := dhcpv4.NewReleaseFromACK(lease.ACK)
	if err != nil {
		return fmt.Errorf("dhcp: release: %w", err)
	}
	server := lease.ACK.ServerIdentifier()
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: lease.ACK.YourIPAddr, Port: nclient4.ClientPort}, &net.UDPAddr{IP: server, Port: nclient4.ServerPort})
	if err != nil {
		return fmt.Errorf("dhcp: release on %s: %w", iface.Name, err)
	}
	defer conn.Close()
	if _, err := conn.Write(msg.ToBytes()); err != nil {
		return fmt.Errorf("dhcp: release on %s: %w", iface.Name, err)
	}
	return nil
}

func (c *Client) discover6(ctx context.Context) (*autoinstall.Location, error) {
	client, err := c.client6(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	want := dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL, dhcpv6.OptionBootfileParam, dhcpv6.OptionDNSRecursiveNameServer)
	for {
		advertise, err := client.Solicit(ctx, want)
		var reply *dhcpv6.Message
		if err == nil {
			reply, err = client.Request(ctx, advertise, want)
		}
		if err == nil {
			answer, err := FromV6(reply)
			if err != nil {
				return nil, err
			}
			if answer.Usable() {
				return c.apply6(ctx, reply, answer)
			}
		}
		if ctx.Err() != nil {
			return nil, waitError(ctx, err)
		}
		if err != nil && !errors.Is(err, nclient6.ErrNoResponse) {
			return nil, fmt.Errorf("dhcp: %w", err)
		}
		if err := sleep(ctx, firstWait); err != nil {
			return nil, err
		}
	}
}

// client6 waits for the link-local address.
func (c *Client) client6(ctx context.Context) (*nclient6.Client, error) {
	for {
		client, err := nclient6.New(c.cfg.Interface, nclient6.WithTimeout(firstWait), nclient6.WithRetry(repetitions))
		if err == nil {
			return client, nil
		}
		if err := sleep(ctx, linkLocalWait); err != nil {
			return nil, err
		}
	}
}

func (c *Client) apply6(ctx context.Context, reply *dhcpv6.Message, answer Answer) (*autoinstall.Location, error) {
	loc, err := c.location(answer, addrs(reply.Options.DNS()))
	if err != nil {
		return nil, err
	}
	loc.Release = func(context.Context) error { return nil }
	ia := reply.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil {
		return loc, nil // The network gives addresses in another way.
	}
	addr, ok := netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	if !ok || !addr.Is6() || addr.Is4In6() || !addr.IsGlobalUnicast() {
		return nil, refuse("address", fmt.Errorf("%v is not an address to take", ia.Options.OneAddress().IPv6Addr))
	}
	// What is on the link is for routers to say (RFC 5942), so the prefix is
	// the address alone.
	undo, err := c.cfg.Network.Apply(ctx, c.cfg.Interface, Settings{Address: netip.PrefixFrom(addr, 128)})
	if err != nil {
		return nil, err
	}
	loc.Release = func(context.Context) error { return undo() }
	return loc, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
