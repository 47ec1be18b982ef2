// Package cms reads and writes the encrypted and signed messages of the Cryptographic Message Syntax that a device
// installation needs: EnvelopedData and SignedData (RFC 5652), AuthEnvelopedData (RFC 5083) with AES-GCM (RFC 5084),
// RSA and elliptic-curve recipients (RFC 3370, RFC 4056, RFC 5753). It reads whatever the commands "openssl smime" and
// "openssl cms" write for RSA and for P-256, P-384 and P-521 certificates with AES, and they read what it writes.
//
// # Where to start
//
// Detect tells from the first bytes whether a file is a message or plain text. A Decrypter holds a private key, which
// may stay in a TPM or other hardware: it asks only for crypto.Decrypter (RSA) or ecdh.KeyExchanger (EC). Encrypt and
// EncodePEM are the sender's side. Sign and Verify put a signature inside the encryption; OwnerClaims is the pair of
// signed attributes that binds a configuration to one device and one place in time.
//
// # What it promises
//
//   - Nothing is handed over before all of it was checked: with AES-GCM no byte leaves before its tag is verified.
//
//   - After the private key was used there is one error, ErrDecrypt, and the content is decrypted whatever the outcome
//     of the key's use was, so that neither answer nor time tells which step failed. A PKCS #1 v1.5 block that is not
//     in order is replaced by a content key made from a secret of the Decrypter and the block itself (implicit
//     rejection): the same bad block always gives the same answer.
//
//   - AES-CBC has no integrity. Message.Authenticated says so, and DecrypterConfig.RequireAuthenticated refuses it.
//     A caller that takes unauthenticated messages must not let the sender see whether content that decrypted was
//     then found to be nonsense: treat both alike.
//
//   - Every count, size and nesting depth is bounded, see limits.go; indefinite lengths are read in one pass.
//
//   - Authentication stays what it was only when the reader insists on it: the same content key also decrypts a message
//     that somebody has relabelled from AES-GCM to AES-CBC, into nonsense. RequireAuthenticated closes that as well, and
//     so does the sender's BindCipher (RFC 9709).
//
// # What it refuses
//
// Triple DES, RC2, AES-CCM, password and key-encryption-key recipients (skipped when others are there), compressed
// data, signatures with MD5 or SHA-1, signatures without signed attributes, multipart/signed mail.
//
// It is one package, and larger than most here, because reading and writing, encrypting and signing share the BER reader,
// the algorithm identifiers and the way certificates are named.
//
// Decrypter is safe for use by several goroutines when its key is. The functions are pure.
package cms
