package main

import "context"

// story is what happens, in order.
var story = []step{
	{"power-on", "The router is switched on for the first time", powerOn},
	{"install", "It gets its first configuration, encrypted to its TPM", install},
	{"conductor", "The conductor is set up and told of the router", setUpConductor},
	{"token", "The conductor signs an onboarding token for the router", issueToken},
	{"impostor", "Another machine tries the token first", impostor},
	{"onboard", "Router and conductor authenticate each other and exchange SSH keys", onboard},
	{"tunnel", "The router keeps an SSH tunnel, and is initialized through it", keepTunnel},
	{"forward", "A connection goes through the tunnel", useTunnel},
	{"certificate", "The router makes a key, and takes the certificate for it in", provision},
	{"revocation", "The certificate is revoked, and everybody knows", revoke},
	{"image", "A software image comes over a link that breaks", fetchImage},
	{"secrets", "The key to the router's secrets is wrapped by its TPM", wrapSecrets},
	{"audit", "The audit record has it all", func(_ context.Context, w *world) (facts, error) { return w.events.summary(), nil }},
}
