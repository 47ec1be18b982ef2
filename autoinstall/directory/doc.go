// Package directory is the vendor's directory of device certificates (RFC 8886
// section 3.2): manufacturing publishes the certificate or the public key of
// each device, operators fetch it by serial number.
//
// Start with [OpenStore], [New], and an HTTPS server around the [Server]. A
// [Client] publishes from the factory.
//
//	PUT /certificates/SERIAL.crt   publish, with a token of manufacturing
//	GET /certificates/SERIAL.crt   fetch, as the RFC's wget does
//
// # What is promised
//
//   - Only who has a token publishes. Tokens are kept as hashes and compared in
//     constant time.
//   - What is published stays: a second, different certificate for a serial
//     number is refused. It is replaced only by a request that names the
//     certificate to be replaced (If-Match) and gives a reason, and every
//     version, with who, when and why, stays in the record. Act and audit are
//     one write.
//   - With [Config].UniqueKeys a public key stands under one serial number only,
//     so that a factory that clones keys is found out.
//   - A raw public key is wrapped into a certificate of the directory.
//   - Publishing the same once more changes nothing, so it can be repeated.
//   - Requests are limited by address and in total.
//
// # What it means
//
// A certificate says which key a device has, nothing more: validity, signature
// and usage are to be ignored by everybody (section 3.1). What makes it true is
// that it came over HTTPS from this directory. Serial numbers can be guessed and
// counted; a vendor who minds uses random identifiers (section 2).
package directory
