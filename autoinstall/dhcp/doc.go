// Package dhcp asks DHCP servers where the configuration of a router is: it is
// the [autoinstall.Discoverer] for a link that nothing is configured on.
//
// Start with [New]. A [Client] sends DHCPDISCOVER until a server answers that
// names a place for the configuration (RFC 8886 section 4.3), takes the address
// it is offered, puts it on the interface, and gives everything back when the
// attempt is over. With [Config.V6] it asks DHCPv6 servers at the same time.
//
// # What is read
//
//   - DHCPv4: the TFTP servers of option 150, the server of option 66, the
//     fields sname and siaddr, in this order; the file of option 67 or of the
//     field file; a URL in any of the last two; sub-options of option 43 as
//     configured. Options that overflow into sname and file (option 52, RFC 2132
//     section 9.3) and long options (RFC 3396) are put together first.
//   - DHCPv6: the boot file URL of option 59 (RFC 5970), with the parameters of
//     option 60.
//
// Where no file is named, SERIAL.enc and SERIAL.cfg are looked for.
//
// # What is refused
//
// Anybody on the link can answer, so every text is taken for hostile: control
// characters, "..", absolute paths, backslashes, over-long names, odd hosts, the
// device's own addresses and malformed options make the whole answer be refused,
// with one error that names the option. An address is not probed for conflicts
// (RFC 5227), and a lease is not renewed: an attempt takes minutes.
//
// Talking to a link takes CAP_NET_RAW and CAP_NET_ADMIN and is there on Linux;
// reading answers ([FromV4], [FromV6]) works everywhere.
package dhcp
