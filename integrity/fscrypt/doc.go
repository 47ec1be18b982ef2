// Package fscrypt speaks to the encryption of Linux file systems (ext4, f2fs,
// UBIFS, CephFS) through its ioctls, without cgo and without a helper program.
//
// It knows version 2 policies and raw keys only: AES-256-XTS for contents,
// AES-256-CBC-CTS for names, names padded to 32 bytes. The kernel derives the
// real keys from the master key; see the kernel's fscrypt documentation.
//
// [System] is the kernel itself. [Kernel] is the seam under all functions of
// this package, so that tests can put a kernel of their own there. Outside of
// Linux [System] says that it is unsupported.
package fscrypt
