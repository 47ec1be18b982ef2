package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Rules says which addresses the other side may name in a forward. The zero
// value allows none. It is made by [ParseRules] and safe for concurrent use.
type Rules struct {
	rules []rule
}

type rule struct {
	anyHost bool
	name    string       // lower case, or empty
	prefix  netip.Prefix // valid for addresses and prefixes
	lo, hi  uint16
}

// ParseRules reads patterns of the form HOST:PORT. HOST is "*" for any host, an
// address, a prefix such as 10.1.0.0/16 or [fd00::/8], or a name that is compared
// as text, without regard to case and without asking the DNS. PORT is "*", a
// number, or a range such as 8000-8099. To listen on port 0, which lets the
// listening side choose, a rule must include 0.
func ParseRules(patterns ...string) (Rules, error) {
	if len(patterns) > maxRules {
		return Rules{}, fmt.Errorf("tunnel: %d rules are more than the limit of %d", len(patterns), maxRules)
	}
	var out Rules
	var errs []error
	for _, p := range patterns {
		r, err := parseRule(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("tunnel: rule %s: %w", quote(p), err))
			continue
		}
		out.rules = append(out.rules, r)
	}
	if len(errs) > 0 {
		return Rules{}, errors.Join(errs...)
	}
	return out, nil
}

func parseRule(p string) (rule, error) {
	var r rule
	i := strings.LastIndexByte(p, ':')
	if i <= 0 {
		return r, errors.New("want HOST:PORT")
	}
	host, ports := p[:i], p[i+1:]
	if h, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(h, "]"); !ok {
			return r, errors.New("the bracket does not close")
		}
	} else if strings.Contains(host, ":") {
		return r, errors.New("an IPv6 address must stand in brackets")
	}
	var err error
	if r.lo, r.hi, err = parsePorts(ports); err != nil {
		return r, err
	}
	if host == "*" {
		r.anyHost = true
		return r, nil
	}
	if strings.Contains(host, "/") {
		if r.prefix, err = netip.ParsePrefix(host); err != nil || r.prefix != r.prefix.Masked() {
			return r, errors.New("the prefix is not valid")
		}
		return r, nil
	}
	if a, ok := parseAddr(host); ok {
		r.prefix = netip.PrefixFrom(a, a.BitLen())
		return r, nil
	}
	if !validHost(host) {
		return r, errors.New("the host is neither a name nor an address")
	}
	r.name = strings.ToLower(host)
	return r, nil
}

func parsePorts(s string) (lo, hi uint16, err error) {
	if s == "*" {
		return 0, 65535, nil
	}
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	if lo, err = parsePort(a); err != nil {
		return 0, 0, err
	}
	if hi, err = parsePort(b); err != nil {
		return 0, 0, err
	}
	if lo > hi {
		return 0, 0, errors.New("the port range runs backwards")
	}
	return lo, hi, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s != strconv.FormatUint(n, 10) {
		return 0, fmt.Errorf("port %s is not a number from 0 to 65535", quote(s))
	}
	return uint16(n), nil
}

// parseAddr reads an address in the one form in which it is compared: IPv4 in
// IPv6 is unwrapped, so that ::ffff:127.0.0.1 does not get past a rule about
// 127.0.0.1. Zones are not addresses here.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// validHost accepts what may stand in a forward as a name. A name whose last
// label is a number is refused because resolvers read it as an address in an old
// notation (127.1, 0x7f000001).
func validHost(s string) bool {
	if !hostLetters(s) {
		return false
	}
	last := strings.TrimSuffix(s, ".")
	last = last[strings.LastIndexByte(last, '.')+1:]
	if last == "" || len(last) >= 2 && last[0] == '0' && (last[1] == 'x' || last[1] == 'X') {
		return false
	}
	return strings.Trim(last, "0123456789") != ""
}

// hostLetters reports whether s is made of what names are made of: letters,
// digits, dot, hyphen and underscore.
func hostLetters(s string) bool {
	if s == "" || len(s) > maxHostLen {
		return false
	}
	for _, c := range []byte(s) {
		ok := c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !ok {
			return false
		}
	}
	return true
}

// checkAddress is for the addresses of the conductor. They come from the router's
// own configuration and no rule is compared with them, so zones and names that
// are numbers may stand there.
func checkAddress(s string) error {
	if len(s) > maxHostLen+8 {
		return errors.New("the address is too long")
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want HOST:PORT")
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostLetters(host) {
		return errors.New("the host is neither a name nor an address")
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %s is not a number from 1 to 65535", quote(p))
	}
	return nil
}

// Allows reports whether a rule names host and port. host is as it came over the
// wire.
func (r Rules) Allows(host string, port uint16) bool {
	addr, isAddr := parseAddr(host)
	name := strings.ToLower(host)
	for _, x := range r.rules {
		if port < x.lo || port > x.hi {
			continue
		}
		switch {
		case x.anyHost:
			// An empty host means all interfaces (RFC 4254 section 7.1).
			if isAddr || host == "" || validHost(host) {
				return true
			}
		case x.name != "":
			if name == x.name {
				return true
			}
		case isAddr && x.prefix.Contains(addr):
			return true
		}
	}
	return false
}

// Policy is what one router may ask of its conductor.
type Policy struct {
	// Dial says to what the conductor connects for the router (direct-tcpip).
	// What the conductor listens on for another router is refused in any case.
	Dial Rules
	// Listen says on what the conductor listens for the router
	// (tcpip-forward). The host is the one the router asks for; "localhost",
	// which stock OpenSSH asks for by default, is a name like any other.
	Listen Rules
}

// Forward is one forwarded address of a [Client].
type Forward struct {
	// Listen is the host:port that takes connections.
	Listen string
	// Target is the host:port to which the other side connects.
	Target string
}

// ParseForward reads LISTEN=TARGET, each a host:port with IPv6 addresses in
// brackets. Only LISTEN may have port 0.
func ParseForward(s string) (Forward, error) {
	listen, target, ok := strings.Cut(s, "=")
	if !ok {
		return Forward{}, fmt.Errorf("tunnel: forward %s: want HOST:PORT=HOST:PORT", quote(s))
	}
	f := Forward{Listen: listen, Target: target}
	return f, f.check()
}

func (f Forward) check() error {
	if _, _, err := splitAddress(f.Listen); err != nil {
		return fmt.Errorf("tunnel: forward listens on %s: %w", quote(f.Listen), err)
	}
	if _, port, err := splitAddress(f.Target); err != nil {
		return fmt.Errorf("tunnel: forward connects to %s: %w", quote(f.Target), err)
	} else if port == 0 {
		return fmt.Errorf("tunnel: forward connects to %s: port 0 can't be connected to", quote(f.Target))
	}
	return nil
}

// splitAddress reads host:port with a port in digits.
func splitAddress(s string) (host string, port uint16, err error) {
	if len(s) > maxHostLen+8 {
		return "", 0, errors.New("the address is too long")
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, errors.New("want HOST:PORT")
	}
	if _, ok := parseAddr(host); !ok && !validHost(host) {
		return "", 0, errors.New("the host is neither a name nor an address")
	}
	if port, err = parsePort(p); err != nil {
		return "", 0, err
	}
	return host, port, nil
}

// forwardRequest is the payload of tcpip-forward and cancel-tcpip-forward (RFC
// 4254 section 7.1).
type forwardRequest struct {
	Host string
	Port uint32
}

// forwardReply answers a tcpip-forward for port 0.
type forwardReply struct {
	Port uint32
}

// openTCP is the payload of direct-tcpip and forwarded-tcpip (RFC 4254 section
// 7.2). Host and Port are where to connect, or where the connection came in.
type openTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

func decodeForwardRequest(b []byte) (forwardRequest, error) {
	var m forwardRequest
	if err := ssh.Unmarshal(b, &m); err != nil {
		return m, errors.New("malformed forward request")
	}
	if m.Port > 65535 || len(m.Host) > maxHostLen {
		return m, errors.New("forward request out of range")
	}
	return m, nil
}

func decodeOpenTCP(b []byte) (openTCP, error) {
	var m openTCP
	if err := ssh.Unmarshal(b, &m); err != nil {
		return m, errors.New("malformed channel request")
	}
	if m.Port > 65535 || m.OriginPort > 65535 || len(m.Host) > maxHostLen || len(m.OriginHost) > maxHostLen {
		return m, errors.New("channel request out of range")
	}
	return m, nil
}

// encodeOpenTCP says where a connection came from; an address that is not TCP
// says nothing.
func encodeOpenTCP(host string, port uint16, from net.Addr) []byte {
	m := openTCP{Host: host, Port: uint32(port), OriginHost: "0.0.0.0"}
	if a, ok := from.(*net.TCPAddr); ok {
		m.OriginHost, m.OriginPort = a.IP.String(), uint32(a.Port)
	}
	return ssh.Marshal(m)
}
