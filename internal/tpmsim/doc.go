// Package tpmsim gives tests, and examples/quickstart, a TPM 2.0 that is thrown
// away afterwards.
//
// There are two backends with one API. "swtpm" runs the swtpm program and talks
// to it over a Unix socket; it needs no cgo and any number can run at once.
// "mssim" is the TCG reference simulator inside the process; it needs cgo and
// the OpenSSL headers and therefore the build tag mssim, and one can run at a
// time in a process. Tests use [Each] and so run on whatever is there.
//
// Both have three slots for transient objects and three for sessions, as a bare
// TPM without a resource manager has.
package tpmsim
