// Package integritytest helps to test what is built on package integrity.
//
// [TestKeyWrapper] is the conformance kit for an integrity.KeyWrapper. [TPM] is a
// TPM in pure Go, and [Kernel] a kernel with file system encryption in pure Go on
// ordinary directories: with them a whole system, its attacks included, runs in a
// test without root. Neither protects anything.
package integritytest
