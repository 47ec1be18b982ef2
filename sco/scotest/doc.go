// Package scotest is the conformance kit of sco.RouterStore: whoever implements
// the interface calls [TestStore] from a test.
package scotest
