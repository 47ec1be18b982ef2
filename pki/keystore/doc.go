// Package keystore makes and opens the private keys of a router's certificates.
//
// A store turns a [Spec] into the text of a key file, and the text of a key file
// into a [crypto.Signer]. Where the file lies and when it is replaced is not its
// business. [Software] keeps the key itself in the file (PKCS #8). [NewTPM]
// keeps only a wrapped form there, which one TPM loads and nothing else: a TSS2
// PRIVATE KEY, as OpenSSL's TPM provider reads and writes it.
package keystore
