package autoinstall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/mooringlib/mooring/autoinstall/internal/serial"
)

// Discoverer finds out where the configuration may be. It may set up the
// network for that. It returns when it knows, or with an error that matches
// [ErrRefused] when what it heard is hostile, and any other error when it heard
// nothing. It is not called concurrently.
type Discoverer interface {
	Discover(ctx context.Context) (*Location, error)
}

// Location is where a configuration may be.
type Location struct {
	// URLs are tried in this order: tftp, http or https. Those beyond the
	// sixteenth are not looked at.
	URLs []string
	// Resolvers are the name servers to use for names in URLs. Empty means
	// those of the system.
	Resolvers []netip.Addr
	// Release gives back what Discover took: the address, the link. It is
	// called once, after the attempt. May be nil.
	Release func(ctx context.Context) error
}

// Static is a Discoverer that knows beforehand.
type Static []string

// Discover returns the URLs.
func (s Static) Discover(context.Context) (*Location, error) { return &Location{URLs: s}, nil }

// FileNames are the names under which a configuration is looked for when nobody
// gave one, in this order: encrypted first.
func FileNames(serialNumber string) []string {
	return []string{serialNumber + ".enc", serialNumber + ".cfg"}
}

// ServerURLs joins a server and the names of files. server is an address or a
// name with or without a port, which means TFTP, or a URL of a folder.
func ServerURLs(server string, files ...string) ([]string, error) {
	if !strings.Contains(server, "://") {
		if addr, err := netip.ParseAddr(server); err == nil && addr.Is6() {
			server = "[" + server + "]"
		}
		server = "tftp://" + server
	}
	u, err := CheckURL(server)
	if err != nil {
		return nil, err
	}
	urls := make([]string, 0, len(files))
	for _, f := range files {
		if err := CheckFileName(f); err != nil {
			return nil, err
		}
		elements := strings.Split(f, "/")
		for i := range elements {
			elements[i] = url.PathEscape(elements[i])
		}
		urls = append(urls, u.JoinPath(elements...).String())
	}
	return urls, nil
}

// CheckFileName refuses names of files that are hostile or useless: control
// characters, characters outside ASCII, "..", backslashes, absolute paths, empty
// elements, and anything above 255 octets. It is for text from DHCP, which
// anybody on the link can write.
func CheckFileName(name string) error {
	if err := checkText(name, 255); err != nil {
		return fmt.Errorf("file name: %w", err)
	}
	if strings.ContainsRune(name, '\\') {
		return fmt.Errorf("file name %q holds a backslash", name)
	}
	for i, element := range strings.Split(name, "/") {
		switch {
		case element == "" && i == 0:
			return fmt.Errorf("file name %q is an absolute path", name)
		case element == "" || element == "." || element == "..":
			return fmt.Errorf("file name %q holds the path element %q", name, element)
		}
	}
	return nil
}

// CheckURL parses a URL that a configuration may be fetched from and refuses
// what CheckFileName would refuse in its path, also when it is escaped, other
// schemes, user names, and fragments.
func CheckURL(text string) (*url.URL, error) {
	if err := checkText(text, maxURL); err != nil {
		return nil, fmt.Errorf("URL: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("URL %.200q can't be parsed", text)
	}
	switch u.Scheme {
	case "tftp", "http", "https":
	default:
		return nil, fmt.Errorf("URL %.200q has the scheme %q, not tftp, http or https", text, u.Scheme)
	}
	switch {
	case u.Opaque != "" || u.Host == "":
		return nil, fmt.Errorf("URL %.200q names no host", text)
	case u.User != nil:
		return nil, fmt.Errorf("URL %q holds a user name", u.Redacted())
	case u.Fragment != "":
		return nil, fmt.Errorf("URL %.200q holds a fragment", text)
	case u.Scheme == "tftp" && u.RawQuery != "":
		return nil, fmt.Errorf("URL %.200q holds a query", text)
	}
	if err := CheckHost(u.Hostname()); err != nil {
		return nil, err
	}
	path := strings.TrimPrefix(u.Path, "/")
	if path = strings.TrimSuffix(path, "/"); path != "" {
		if err := CheckFileName(path); err != nil {
			return nil, fmt.Errorf("URL %.200q: %w", text, err)
		}
	}
	return u, nil
}

// CheckHost refuses everything but a name of letters, digits, '-', '_' and '.',
// and the address of one other host.
func CheckHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return checkAddr(addr)
	}
	if err := checkText(host, 253); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if last := labels[len(labels)-1]; last != "" && last[0] >= '0' && last[0] <= '9' {
		// Some resolvers take "127.1" or "0x7f000001" for an address. No name
		// of the public or of a private tree ends so.
		return fmt.Errorf("host %.253q is neither a name nor an address", host)
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' {
			return fmt.Errorf("host %.253q is not a name", host)
		}
		for i := range len(label) {
			c := label[i]
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_') {
				return fmt.Errorf("host %.253q is not a name", host)
			}
		}
	}
	return nil
}

func checkAddr(addr netip.Addr) error {
	addr = addr.Unmap() // ::ffff:0.0.0.0 is this device too
	if addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%v is not the address of a host", addr)
	}
	return nil
}

// checkText wants 1 to limit octets of printable ASCII.
func checkText(s string, limit int) error {
	if s == "" {
		return errors.New("it is empty")
	}
	if len(s) > limit {
		return fmt.Errorf("%.64q... is longer than %d octets", s, limit)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return fmt.Errorf("%.64q holds the character %#02x", s, s[i])
		}
	}
	return nil
}

// CheckSerial refuses serial numbers that can't safely name a file or stand in
// a URL, see Config.Serial.
func CheckSerial(s string) error { return serial.Check(s) }
