package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// systemNetwork speaks rtnetlink(7) with the kernel.
type systemNetwork struct{}

// Up sets IFF_UP.
func (systemNetwork) Up(_ context.Context, name string) error {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("dhcp: interface %q: %w", name, err)
	}
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(iface.Index))
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP)
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP)
	if err := netlink(unix.RTM_NEWLINK, 0, b); err != nil {
		return fmt.Errorf("dhcp: bring interface %q up: %w", name, err)
	}
	return nil
}

// Apply adds the address and the first router.
func (systemNetwork) Apply(_ context.Context, name string, s Settings) (func() error, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("dhcp: interface %q: %w", name, err)
	}
	address := addressMessage(iface.Index, s.Address)
	if err := netlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, address); err != nil {
		return nil, fmt.Errorf("dhcp: put %v on %q: %w", s.Address, name, err)
	}
	undo := func() error { return gone(netlink(unix.RTM_DELADDR, 0, address)) }
	if len(s.Routers) == 0 {
		return undo, nil
	}
	route := routeMessage(iface.Index, s.Routers[0])
	if err := netlink(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route); err != nil {
		return nil, errors.Join(fmt.Errorf("dhcp: route through %v: %w", s.Routers[0], err), undo())
	}
	return func() error {
		return errors.Join(gone(netlink(unix.RTM_DELROUTE, 0, route)), undo())
	}, nil
}

// gone takes what is not there any more for removed.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addressMessage is struct ifaddrmsg with IFA_LOCAL and IFA_ADDRESS.
func addressMessage(index int, p netip.Prefix) []byte {
	b := []byte{family(p.Addr()), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = appendAttribute(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	b = appendAttribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is6() {
		// The server has just given us the address and waits; detection of
		// duplicates would make it useless for a second.
		b = appendAttribute(b, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, unix.IFA_F_NODAD))
	}
	return b
}

// routeMessage is struct rtmsg of a default route with RTA_GATEWAY and RTA_OIF.
func routeMessage(index int, router netip.Addr) []byte {
	b := []byte{family(router), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	b = appendAttribute(b, unix.RTA_GATEWAY, router.AsSlice())
	return appendAttribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
}

// appendAttribute writes struct rtattr with its padding.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// netlink sends one request and waits for its acknowledgement.
func netlink(kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	defer unix.Close(fd)
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Bind(fd, kernel); err != nil {
		return fmt.Errorf("netlink bind: %w", err)
	}
	const sequence = 1
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, sequence)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	if err := unix.Sendto(fd, append(msg, body...), 0, kernel); err != nil {
		return fmt.Errorf("netlink send: %w", err)
	}
	buf := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return fmt.Errorf("netlink receive: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR || binary.NativeEndian.Uint32(buf[8:]) != sequence {
		return errors.New("netlink: unexpected answer")
	}
	if code := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
