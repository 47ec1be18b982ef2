// Package devicekey makes and keeps the keys to which a device's configurations
// are encrypted (RFC 8886 sections 3.1, 5.1 and 5.2), in files or in a TPM 2.0.
//
// Start with [Open], then [Store.Generate] in the factory and [Store.Keys] on
// every boot.
//
// # Where a key can be
//
// [InFile] is a PKCS #8 file that only its owner may read. [InTPM] is a key that
// the TPM made, that never leaves it, and that can do nothing but decrypt: a TPM
// refuses to sign with it, so its certificate is signed by an attestation key
// that is made in the same TPM, or by the device's IDevID ([Spec].Certifier). An
// IDevID itself can seldom be the key that RFC 8886 section 5.1 has in mind,
// because most are made for signing alone. [InTPMDualUse] is a TPM key that
// decrypts and signs its own certificate; it needs nothing else, and one key for
// two purposes is the weaker design.
//
// # Key replacement
//
// An operator may want a key that the vendor never saw (section 5.2). It is made
// on the device, its certificate goes to the operator, and one of two policies
// holds:
//
//   - [Prefer]: the operator's key is tried first and the vendor's still works.
//     A factory reset drops the operator's key, so the device can be sold and
//     installed again. The cost: whoever knows the vendor's certificate, which
//     is public, can still encrypt to the device, and a vendor's key that leaked
//     still opens configurations.
//   - [Replace]: the vendor's key is destroyed. Only the operator's key counts,
//     for good, also after a factory reset. The cost: the device can never again
//     be installed through the vendor's directory. Who buys it needs the
//     operator's certificate from the seller.
//
// Certificates made here are valid without end and say nothing but a name and a
// key; users pin the key (section 3.1).
package devicekey
