// Package fsmeta reads and writes the metadata that the fscrypt command line
// tool keeps in the folder .fscrypt at the root of a file system, so that the
// tool and this library can manage the same directories.
//
// There, a raw key of 32 bytes is a protector: it wraps a protector key of 32
// bytes, which wraps the policy key of 64 bytes that the kernel gets. Wrapping is
// AES-256-CTR and HMAC-SHA256 under keys from HKDF-SHA256. The files are protocol
// buffers; the few fields that matter are read and written here, and a policy
// file that somebody else wrote is never rewritten.
package fsmeta
