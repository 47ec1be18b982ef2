// Package autoinstall is the device's side of Secure Device Install (RFC 8886):
// a router that has no configuration finds out from DHCP where its configuration
// is, fetches it, decrypts it with a key that only it has, checks it, and puts
// it into force.
//
// Start with [New] and [Device.Run]. A [Device] is made of interfaces: a
// [Discoverer] says where to look (package autoinstall/dhcp has one), a [Fetcher]
// reads a URL ([NewFetcher]: TFTP, HTTP and HTTPS), [Key] values open the
// message (package autoinstall/devicekey makes and keeps them, in files or in a
// TPM), and an [Installer] puts the configuration into force ([NewFileInstaller]
// writes a file). The vendor's directory is package autoinstall/directory, the
// operator's side is package autoinstall/operator.
//
// # What is promised
//
//   - What a file is, plain or encrypted, is told by its content, never by its
//     name (section 4.3).
//   - A configuration comes into force as a whole or not at all, and never
//     twice because a process died at the wrong moment.
//   - While there is nothing to install the device tries again after 5 minutes
//     during the first hour and every hour after that, for ever, with jitter
//     (section 4.3), and [Status] says when and why, across restarts.
//   - All failures look the same from outside: the schedule doesn't depend on
//     why a file was refused, so that retries are no oracle for its sender. For
//     messages without integrity neither do texts, nor the time of the next
//     request, as long as [Config.Sane] takes less than a second.
//
// # What RFC 8886 does not give
//
// It keeps a configuration confidential, nothing else: the public key of a
// device is public, so anybody can encrypt to it. With AES-CBC not even a
// changed bit is noticed. An [OwnerPolicy] closes that: the configuration is
// signed inside the encryption, may name the one device it is for, and may
// carry a counter below which the device never goes back.
//
// # What it refuses
//
// Without an [OwnerPolicy] or [Config.EncryptedOnly] a plain file is installed,
// as RFC 8886 says. A message that is damaged, empty, encrypted to somebody
// else, or insane changes nothing. There is no switch that turns checks off.
//
// # Size
//
// There are more exported names here than in most packages of the module: a
// third of them are errors, because a person far away has to be told exactly why
// a device stays without its configuration.
package autoinstall
