// Package tftp reads files from TFTP servers: RFC 1350 with the option
// negotiation of RFC 2347, blksize (RFC 2348), tsize and timeout (RFC 2349) and
// windowsize (RFC 7440).
//
// Start with [New] and [Client.Get]. A transfer either delivers the whole file
// or returns an error; it never ends early in silence. What a server answers is
// believed only within what was asked for:
//
//   - an option that was not asked for, that comes twice, or that is larger than
//     asked ends the transfer (RFC 2347: ERROR 8);
//   - the size that the server announced is compared with the size received;
//   - a file that is larger than [Config.MaxSize] is given up at once, from its
//     announcement where there is one;
//   - packets from another port get ERROR 5 (RFC 1350 section 4), packets from
//     another address get nothing, and neither changes the transfer.
//
// TFTP has no authentication and no integrity beyond the UDP checksum. What
// comes from it is as trustworthy as a note found on the floor: use it for
// content that proves itself, such as an encrypted and signed configuration.
//
// Only reading (RRQ) in octet mode is there. The package reads no environment
// and keeps no state between transfers.
package tftp
