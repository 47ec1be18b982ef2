package crltest

import (
	"crypto/x509"
	"testing"
)

// Example returns an authority, a certificate that it issued, and a list that
// revokes it because of a stolen key.
func Example() (authority, revoked *x509.Certificate, list []byte) {
	var tb panicking
	ca := NewCA(tb, "Example CA", Options{})
	leaf := ca.Leaf(tb, "router-17")
	return ca.Cert, leaf, ca.Sign(tb, List{Entries: []Entry{{Serial: leaf.SerialNumber, Reason: 1}}})
}

// panicking stands for the test that an example is not given.
type panicking struct{ testing.TB }

func (panicking) Helper()           {}
func (panicking) Fatal(args ...any) { panic(args) }
