// Package pkitest holds the tests that every implementation of an interface of
// package pki has to pass. Run them on yours.
package pkitest
