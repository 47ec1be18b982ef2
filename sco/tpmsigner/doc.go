// Package tpmsigner proves a router's TPM to its conductor: it is the
// sco.Signer for an endorsement key.
//
// The attestation key is a primary key of the endorsement hierarchy, made anew
// for every use from a fixed template, so nothing is left in the TPM and nothing
// has to be kept: neither persistent handles nor files, and no owner
// authorization is needed. The credential that the conductor sends is activated
// over a session that is salted to the endorsement key and encrypts what the TPM
// releases, so that a probe on the bus does not see it.
//
// The endorsement hierarchy must have the empty authorization, as machines are
// delivered.
//
// At most two transient objects and two sessions are in use at a time, which
// every TPM has room for.
package tpmsigner
