// Package tpmwrap wraps the key of Configuration Integrity with a TPM 2.0.
//
// [NewSealed] keeps the key as a sealed object under the TPM's storage root key
// (RSA-2048, or P-256): the TPM itself checks that nobody changed it. [NewOAEP]
// keeps it encrypted to an RSA-2048 decryption key that never leaves the TPM, for
// products that have such keys and blobs already. Both obey a [Policy], both are
// an integrity.KeyWrapper, and both bring the optional powers: the key is made
// by the TPM's generator, the manifest's digest is kept in an NV index (the
// anchor), and after the last directory is open a PCR is extended (the cap).
//
// # What is assumed about the bus
//
// Every command that carries a secret runs in a session that is salted to the
// storage root key and encrypts its parameter. The name of that key is pinned
// when the key is first wrapped; a TPM that comes with another key is refused
// before anything secret is asked of it. At that first moment the TPM's word is
// taken.
//
// # What is assumed about the owner
//
// No object has an authorization value, and all are exempt from the
// dictionary-attack logic, so no number of retries or power cuts locks the TPM.
// Who can use the TPM as owner can delete the anchor and the counter. That gives
// no secret away and is noticed, unless the whole state is forged anew; set an
// owner authorization, and use a signed policy, to prevent that as well.
//
// # What is not done
//
// The library below copies secrets through ordinary memory for the length of
// one command. Responses are wiped afterwards, intermediate buffers of the
// library cannot be.
//
// The package is larger than its siblings, because both wrappers share sessions,
// policies, anchor and counter, none of which is of use alone.
package tpmwrap
