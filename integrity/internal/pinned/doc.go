// Package pinned talks to a TPM under the assumption that somebody sits on the
// bus.
//
// A [Key] is a storage key whose TPM name was compared with a pinned one. It is
// the only source of sessions, and each of them is salted to that key and
// encrypts with AES-128-CFB: an encrypting session without a salt, which a
// passive listener can read, cannot be built with this package.
//
// A [Bus] bounds each command by a context, sends it again when the TPM was
// only busy, and wipes the responses, in which the decrypted secrets lie.
package pinned
