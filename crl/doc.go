// Package crl manages certificate revocation lists: it finds them, fetches
// them on a schedule, checks them, publishes one master list to disk, shares
// it with routers, and answers whether a certificate is revoked (RFC 5280
// sections 5 and 6.3).
//
// Start with [New] and a [Config], call [Manager.Load] once, and keep
// [Manager.Run] running. [Manager.Check] answers at any time, without the
// network: fetching is never on the way of a handshake.
//
// # What counts
//
// A list counts only when its issuer is under a configured authority and may
// sign lists, its signature verifies, it is not from the future, its number and
// date do not go back, and every critical extension in it is understood. Only
// then are its entries read. Delta lists, indirect lists and lists that are
// divided by distribution point, kind of certificate or reason are understood;
// attribute certificates are not. MD5, SHA-1, DSA and RSA keys below 2048 bits
// are refused. Lists over ldap are refused as an address.
//
// # Answers
//
// An answer is good, revoked, on hold, unknown or stale, and says why. Unknown
// and stale are never turned into good: whether they stop a connection is policy
// ([FailPolicy]), applied by [Manager.VerifyConnection] and [Manager.Permit] on
// top of the answer. An expired list stays in force as the last known good one,
// for a bounded time of grace, and an alarm says so.
//
// # Memory
//
// Before a signature is verified, reading a list takes less than 2 MiB,
// whatever it says about itself; its bytes go to disk. Reading the entries of a
// verified list takes 22 bytes for each with a serial number of 16 bytes (26
// with 20 bytes), about twice that for a moment while they are sorted, and never
// more than four times Config.MaxListBytes. Entries of one list are read at a
// time, and up to 16 lists are fetched at a time. With the default limits, 128
// MiB and 4 million entries for each list, that is about 240 MiB for the longest
// ordinary list. The master list is mapped, not read, and a lookup does not
// allocate.
//
// # Files
//
// The file formats are in FORMAT.md. All state is in Config.Directory, and
// nothing in it is secret. Several processes may use one directory: writers
// take turns, readers never wait. The directory must be writable only for
// those who may revoke and un-revoke: the signed lists travel beside the index,
// and are verified again whenever the index is damaged.
//
// # Shape
//
// This package is longer than its siblings: fetching, publishing, alarms and
// answers share one state, which must change in one transaction. Everything
// that does not need that state (reading lists, the index, names, scopes, trust,
// fetching, patches) is in packages below internal, which know nothing of it.
//
// # Stability
//
// The API follows semantic versioning together with the module. The version in
// the file format's magic goes up when a reader of the old one could be misled.
package crl
