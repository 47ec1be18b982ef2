// Package verify says whether a certificate is right: by itself, and as the end
// of a path to a trusted authority.
//
// It is made of pure functions of certificates and a moment in time. Start with
// [NewTrust] and [Trust.Verify]; [CheckLeaf] and [CheckCA] look at one
// certificate. What is wrong comes back as a list of [Issue] values, each with a
// [Class] that programs branch on; [Failure] joins those that refuse into one
// error. Revocation is not looked at here.
//
// # What is asked beyond crypto/x509
//
// Paths are built and signatures are checked by crypto/x509. It is more lenient
// than RFC 5280 or than our rules in these places, which are closed here for
// every certificate of a path, the trust anchor included:
//
//   - keyUsage of an authority is not looked at when a path is built: it must be
//     there and hold keyCertSign (RFC 5280 sections 4.2.1.3 and 6.1.4 n).
//   - an authority at the end of a path may lack basicConstraints, or be a
//     version 1 certificate: it must have them, CA:TRUE and critical (4.2.1.9).
//   - a leaf found in the pool of authorities is a path by itself: it is not.
//   - keyUsage of a leaf is not looked at: when there, it must hold
//     digitalSignature, and must not hold keyCertSign (4.2.1.3, 4.2.1.9).
//   - Ed25519 is taken, and signatures by the trust anchor on itself are not
//     looked at: only RSA and ECDSA with SHA-256, SHA-384 or SHA-512 are taken.
//   - RSA from 1024 bits and P-224 are taken: RSA from 2048 to 8192 bits with an
//     exponent of at least 65537, and P-256, P-384, P-521 are taken here.
//   - nameConstraints for directory names are not supported, and those in an
//     extension that is not critical are dropped without a word: they are
//     enforced here (4.2.1.10), must be critical and must stand in an authority.
//   - a permitted email or URI host is taken to hold the hosts below it, and an
//     email address in the subject is not looked at: a host is that host alone,
//     and the subject counts when subjectAltName has no email (4.2.1.10).
//   - serial numbers may be zero or longer than 20 octets: they may not (4.1.2.2).
//   - an empty issuer, an authority with an empty subject, and an empty subject
//     beside a subjectAltName that is not critical are taken: they are not
//     (4.1.2.4, 4.1.2.6).
//   - key identifiers may contradict each other: where both are there they match
//     (4.2.1.1, 4.2.1.2). That one is missing is a warning: validation does not
//     need them, and common tools leave them out.
//
// In two places crypto/x509 is stricter than RFC 5280, and the RFC is followed:
// names are compared without regard to case, repeated spaces and string type
// (7.1), and self-issued certificates do not count against a path length
// (4.2.1.9). Policies are as crypto/x509 does them.
//
// Every case of two public suites in which this package answers otherwise than
// the suite is named, with the reason, in pki/testdata/disagreements-*.txt.
package verify
