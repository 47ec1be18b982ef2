// Package tpmkey makes and uses asymmetric keys whose private half never leaves
// a TPM 2.0.
//
// A key lives in a file, wrapped by the TPM's storage root key, in the form that
// OpenSSL's TPM provider, the TSS engines and GnuTLS read and write too: a PEM
// block "TSS2 PRIVATE KEY" with the ASN.1 TPMKey of draft-bottomley-tpm2-keys.
// Only the TPM that made it can load it. Start with [New], then [Device.Create]
// and [Device.Load].
//
// # The parent
//
// New keys are wrapped by the key that is persistent at [SRKHandle] when there is
// one (TCG TPM v2.0 Provisioning Guidance, section 7.5.1). Otherwise the parent
// is the owner hierarchy's primary key of section 3.1.8 of the draft: the ECC
// P-256 storage template with an empty unique field. It is made for each
// operation and flushed after it. That template is not the one of go-tpm's
// ECCSRKTemplate, whose unique field is 32 zero bytes and which therefore gives
// another key; other programs expect the draft's. A file remembers which of the
// two parents it has, so that it still loads when an SRK is made persistent
// later.
//
// # On the wire
//
// A TPM often sits on a bus that can be listened to. Every command that carries
// or uses secrets runs in an HMAC session that is salted to the parent and
// encrypts its first parameters with AES-128-CFB. There is no way to make an
// unsalted one here. Salting helps against an interposer only when the parent's
// public key is known to be right: give [Config.SRKName] to pin it.
//
// # Slots
//
// A TPM has three slots for transient objects and three for sessions. At most
// two objects and one session are held at a time, and nothing is held between
// operations. A [Device] lets one operation run at a time, so share one Device
// among all users of a TPM that has no resource manager.
package tpmkey
