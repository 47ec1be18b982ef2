// Package sco is secure conductor onboarding: a router and its conductor
// authenticate each other over TLS 1.3, and exchange the SSH keys of the tunnel
// that the router then keeps (package tunnel).
//
// PROTOCOL.md beside this file describes the protocol well enough for a second
// implementation, and lists the attacks that it resists. In short: a token,
// signed by the conductor, brings the conductor's certificates and a shared
// secret to the router. The router pins the certificate, both sides prove that
// they know the secret, and the router proves, as strongly as its mode asks,
// its device key; every proof covers the TLS channel (RFC 9266) and everything
// that was said in it. The secret itself never crosses the wire.
//
// # The conductor
//
// A [Registry] is the conductor's view of its routers, on a [RouterStore]:
// configuration, states, pinned keys, audit events, and the gate for the
// product's legacy onboarding. An [Issuer] makes tokens. A [Conductor] serves
// the onboarding port. All three keep nothing outside the store, so two
// conductor nodes, or a command beside a server, work on one store; the
// conductor's own certificate, key and roots come from a [SettingsFunc] that is
// asked for every connection.
//
//	reg, err := sco.NewRegistry(sco.RegistryConfig{Store: store})
//	issuer, err := sco.NewIssuer(sco.IssuerConfig{Registry: reg, Settings: settings})
//	conductor, err := sco.NewConductor(sco.ConductorConfig{Registry: reg, Settings: settings})
//	err = conductor.Serve(ctx, listener) // port 933
//
// The SSH server of the tunnel asks [Registry.Lookup] who a key belongs to, and
// tells [Registry.Connected], [Registry.Initialized] and [Registry.Disconnected]
// what happens; [Registry.ResetLinks] is called once when it starts.
//
// # The router
//
// [Onboard] does all of it in one call, and stores the result in a directory
// before it says that it is done. [LoadEnrollment] reads it back, for the tunnel
// and for status. The directory holds the router's SSH key (ssh_key), the
// enrollment (enrollment.json, written last: it exists only when everything
// before it does), and for other programs the conductor's CA certificate
// (conductor-ca.pem) and the pinned host keys (known_hosts). A [Signer] proves
// the device's identity; nil is a self-signed certificate.
//
// # What it refuses
//
// Anything below TLS 1.3, a resumed session, a conductor that is not exactly the
// token's, a proof weaker than the router's mode, a second device under a bound
// asset-id. There is no switch that turns a check off.
//
// The package is larger than its siblings (about 45 exported names) because both
// sides of one protocol share its vocabulary; the messages, tokens, admission and
// TPM verification are apart, under internal, and the TPM side of a router is
// package tpmsigner.
package sco
