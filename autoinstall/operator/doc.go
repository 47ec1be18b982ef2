// Package operator is the operator's side of a secure device install (RFC 8886, section 4.2): get the certificate of a
// device from the vendor's directory, keep it, encrypt the device's first configuration to it, and publish that for the
// device to fetch.
//
// # Where to start
//
// New makes an Operator from the directory's URL, the roots that authenticate it, and a directory of its own. Fetch
// gets a device's certificate and keeps it; Device gives one that is kept, when the vendor's directory is no longer
// there. Encrypt makes the encrypted configuration, and Publish puts it where a TFTP or web server finds it.
//
// # What is trusted
//
// The directory says which key belongs to which serial number, so it has to be authenticated: HTTPS with the given
// roots alone, TLS 1.2 or newer, no redirect to another server. There is no switch that turns this off. What stands in
// the certificate is not looked at: neither validity, nor signature, nor usage means anything (RFC 8886, section 3.2).
// What counts is its public key, by its fingerprint. The first one that was fetched for a serial number is kept, and a
// directory that later names another key is refused with a ChangedError: somebody may want to read the configuration.
// Replace takes the other key when the caller names its fingerprint, which the vendor can confirm by another way.
//
// # What the encryption gives
//
// Only the device can read the configuration. With AES-256-GCM, the default, nobody can change it unseen either; with
// the AES-256-CBC of RFC 8886 somebody can. In both cases anybody who knows the certificate can make a configuration
// that the device decrypts. Only a signature closes that: EncryptConfig.Owner signs inside the encryption, names the
// device, and numbers the configuration so that an older one can't come back. The device has to be told to ask for it.
//
// # Files
//
// Config.Dir holds one file for each device, SERIAL.crt, a certificate in PEM, to be read by people and by openssl. It
// appears whole or not at all. The files are no secret, but who can change them can read configurations.
// What a killed process leaves there, .fetch-* and .durable-*, is removed by a later Fetch or Replace that writes, once it
// is an hour old.
//
// An Operator is safe for concurrent use, also by several processes with the same directory.
package operator
