// Package repo defines what a software repository looks like: a folder of
// images with one signed manifest for each, that any static HTTP server can
// serve. FORMAT.md beside this file is the specification of every byte.
//
// [Make] builds or extends a repository, [ParseIndex] reads what a source says
// that it has, and a [Verifier] turns a signed envelope into a [Manifest] or
// refuses it. A manifest names the version, the size and SHA-256 of the image,
// the algorithm, size and digest of its chunk list, an expiry, and a counter
// that only grows.
//
// Signatures are Ed25519, or ECDSA over P-256 with SHA-256. Trusted keys are
// configuration; no function here returns a manifest that no trusted key signed.
//
// The index itself is not signed. It can hide an image or offer one that does
// not exist, which costs time; it cannot make a client accept a byte.
//
// Nothing in this package starts a goroutine that outlives its call. The format
// and the exported names follow the module's semantic version.
package repo
