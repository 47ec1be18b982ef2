// Package certtext tells everything about a certificate that "openssl x509
// -text" tells, in the same words, and as values for programs.
//
// [New] takes a certificate apart, [Detail.Text] writes it for people. Extensions
// without a form of their own are written in hex.
package certtext
