// Package pki provisions the certificates of a router and watches them until
// their end: a private key that never leaves the device, a request signed with
// it, a certificate that is taken in only when it is right, and alarms long
// before it expires.
//
// Start with [New] and [Manager.Open]. One name ties the steps together:
// [Manager.CreateKey], [Manager.CreateRequest], [Manager.Ingest]. Authorities are
// trusted by [Manager.AddTrust]. [Manager.Run] notices files that were replaced
// by hand, raises and clears alarms, and renews ahead of time. TLS gets its
// certificate and checks its peers through [Manager.TLSConfig] or its parts.
//
// # Where things are
//
//	DIR/NAME.key       private key in force (0600): PKCS #8, or TSS2 for a TPM
//	DIR/NAME.pem       its certificate, leaf first, then the authorities below the root
//	DIR/NAME.key.new   a replacing key that waits for its certificate
//	DIR/trust/NAME.pem a bundle of authorities; "# validation-mode: warn" may stand above
//
// All are written by rename after fsync. A key and its certificate change at one
// moment: whoever opens the two files, after a crash at any step too, finds the
// old pair or the new one. Other processes that use the same directory through
// this package are kept out of each other's way by a lock file.
//
// # What is checked
//
// Package verify has the rules and says where they are stricter than crypto/x509.
// Ingest makes three checks in this order and reports all: no private key of any
// form travels with the certificate; it is valid by itself, fits the key and
// chains to a trusted authority; it is not revoked. A bundle's validation mode
// decides only whether a faulty authority may be configured. At run time every
// rule is enforced whatever the mode was. With [Config.Revocation] set, a
// certificate about which nothing is known is refused.
//
// # What this package does not do
//
// It has no switch that turns verification off. It does not fetch revocation
// lists, and does not speak EST or CMP: both come in through interfaces
// ([RevocationChecker], [Enroller]). It makes no post-quantum certificates.
//
// The package is larger than others of this module, because every part of it
// shares the one directory, its lock and what is in force.
//
// The API follows semantic versioning together with the module. The sub-packages
// are keystore (where keys are made), verify (the rules), certtext (what
// "openssl x509 -text" tells), rest (the HTTP handlers) and jwtauth (users and
// bearer tokens).
package pki
