package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/mooringlib/mooring/autoinstall"
)

const (
	maxServers = 8
	maxParams  = 16
)

// Answer is what a server said about the configuration, checked.
type Answer struct {
	// Servers are TFTP servers, addresses or names, best first.
	Servers []string
	// File is the name of the file on any of them.
	File string
	// URL is a whole URL, which comes before Servers and File. One that ends in
	// "/" is a folder.
	URL string
	// Params are the parameters of a DHCPv6 boot file. They are checked and
	// told; nothing here depends on them.
	Params []string
}

// VendorOptions are the sub-options of option 43 (RFC 2132 section 8.4) that a
// product gives a meaning. A zero code is not read. The sub-options are used
// where the standard options are missing.
type VendorOptions struct {
	// Server, File and URL are codes of sub-options that hold text.
	Server, File, URL uint8
}

// Usable says whether the answer names a place.
func (a Answer) Usable() bool { return a.URL != "" || len(a.Servers) > 0 }

// URLs lists where to look. names are the files to look for where the answer
// names none.
func (a Answer) URLs(names ...string) ([]string, error) {
	if a.File != "" {
		names = []string{a.File}
	}
	servers := a.Servers
	if a.URL != "" {
		if !strings.HasSuffix(a.URL, "/") {
			return []string{a.URL}, nil
		}
		servers = []string{a.URL}
	}
	var urls []string
	for _, s := range servers {
		some, err := autoinstall.ServerURLs(s, names...)
		if err != nil {
			return nil, err
		}
		urls = append(urls, some...)
	}
	return urls, nil
}

// refuse is the one kind of error about the content of an answer.
func refuse(what string, err error) error {
	return &autoinstall.RefusedError{Err: fmt.Errorf("DHCP %s: %w", what, err)}
}

// FromV4 reads an answer. Options in sname and file have to be put into place
// by [Merge] before a packet is parsed. The error matches
// [autoinstall.ErrRefused].
func FromV4(p *dhcpv4.DHCPv4, vendor VendorOptions) (Answer, error) {
	var a Answer
	sub, err := vendorText(p.Options.Get(dhcpv4.OptionVendorSpecificInformation), vendor)
	if err != nil {
		return Answer{}, err
	}
	if err := a.setFile("option 67", p.Options.Get(dhcpv4.OptionBootfileName)); err != nil {
		return Answer{}, err
	}
	for _, f := range []struct {
		what string
		text []byte
	}{{"field file", []byte(p.BootFileName)}, {"option 43 file", sub.file}, {"option 43 URL", sub.url}} {
		if a.File == "" && a.URL == "" {
			if err := a.setFile(f.what, f.text); err != nil {
				return Answer{}, err
			}
		}
	}
	if err := a.addServers150(p.Options.Get(dhcpv4.OptionTFTPServerAddress)); err != nil {
		return Answer{}, err
	}
	for _, s := range []struct {
		what string
		text []byte
	}{
		{"option 66", p.Options.Get(dhcpv4.OptionTFTPServerName)},
		{"field sname", []byte(p.ServerHostName)},
		{"option 43 server", sub.server},
	} {
		if err := a.addServer(s.what, s.text); err != nil {
			return Answer{}, err
		}
	}
	if err := a.addServer("field siaddr", addrText(p.ServerIPAddr)); err != nil {
		return Answer{}, err
	}
	return a, nil
}

// addrText is an address as text, nothing for 0.0.0.0.
func addrText(ip net.IP) []byte {
	if len(ip) == 0 || ip.IsUnspecified() {
		return nil
	}
	return []byte(ip.String())
}

// setFile takes a file name or a URL.
func (a *Answer) setFile(what string, raw []byte) error {
	text := trim(raw)
	if text == "" {
		return nil
	}
	if !strings.Contains(text, "://") {
		if err := autoinstall.CheckFileName(text); err != nil {
			return refuse(what, err)
		}
		a.File = text
		return nil
	}
	u, err := autoinstall.CheckURL(text)
	if err == nil {
		err = checkServer(u.Hostname())
	}
	if err != nil {
		return refuse(what, err)
	}
	a.URL = text
	return nil
}

// addServer takes the name or the address of one server.
func (a *Answer) addServer(what string, raw []byte) error {
	text := trim(raw)
	if text == "" {
		return nil
	}
	if err := checkServer(text); err != nil {
		return refuse(what, err)
	}
	for _, s := range a.Servers {
		if s == text {
			return nil
		}
	}
	if len(a.Servers) < maxServers {
		a.Servers = append(a.Servers, text)
	}
	return nil
}

// addServers150 takes the list of addresses of option 150 (RFC 5859).
func (a *Answer) addServers150(raw []byte) error {
	if len(raw)%4 != 0 {
		return refuse("option 150", fmt.Errorf("%d octets are no list of addresses", len(raw)))
	}
	for ; len(raw) > 0; raw = raw[4:] {
		addr := netip.AddrFrom4([4]byte(raw[:4]))
		if err := a.addServer("option 150", []byte(addr.String())); err != nil {
			return err
		}
	}
	return nil
}

// checkServer refuses the device itself beside what is no host at all: an answer
// must not make the device talk to its own services.
func checkServer(host string) error {
	if err := autoinstall.CheckHost(host); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && (addr.IsLoopback() || addr.Unmap().IsLoopback()) || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return fmt.Errorf("%q is this device itself", host)
	}
	return nil
}

// trim takes zeros off the end: some servers send texts as C has them.
func trim(raw []byte) string { return string(bytes.TrimRight(raw, "\x00")) }

type vendorTexts struct{ server, file, url []byte }

// vendorText reads encapsulated vendor-specific options.
func vendorText(raw []byte, codes VendorOptions) (vendorTexts, error) {
	var v vendorTexts
	if codes == (VendorOptions{}) {
		return v, nil // The option means something to somebody else.
	}
	for len(raw) > 0 {
		code := raw[0]
		if code == 0 {
			raw = raw[1:]
			continue
		}
		if code == 255 {
			break
		}
		if len(raw) < 2 || len(raw) < 2+int(raw[1]) {
			return v, refuse("option 43", fmt.Errorf("sub-option %d is cut off", code))
		}
		value := raw[2 : 2+int(raw[1])]
		switch code {
		case codes.Server:
			v.server = value
		case codes.File:
			v.file = value
		case codes.URL:
			v.url = value
		}
		raw = raw[2+len(value):]
	}
	return v, nil
}

// FromV6 reads options 59 and 60 (RFC 5970). The error matches
// [autoinstall.ErrRefused].
func FromV6(m *dhcpv6.Message) (Answer, error) {
	var a Answer
	text := trim([]byte(m.Options.BootFileURL()))
	if text == "" {
		return a, nil
	}
	u, err := autoinstall.CheckURL(text)
	if err == nil {
		err = checkServer(u.Hostname())
	}
	if err != nil {
		return Answer{}, refuse("option 59", err)
	}
	a.URL = text
	for _, p := range m.Options.BootFileParam() {
		if len(a.Params) == maxParams || len(p) > 255 || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			return Answer{}, refuse("option 60", fmt.Errorf("%.64q is not a parameter", p))
		}
		a.Params = append(a.Params, p)
	}
	return a, nil
}
