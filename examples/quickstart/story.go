package main

import "context"

// pkiWorld is filled by the steps about certificates.
type pkiWorld struct{}

// story is what happens, in order.
var story = []step{
	{"power-on", "The router is switched on for the first time", powerOn},
	{"conductor", "The conductor is set up and told of the router", setUpConductor},
	{"token", "The conductor signs an onboarding token for the router", issueToken},
	{"impostor", "Another machine tries the token first", impostor},
	{"onboard", "Router and conductor authenticate each other and exchange SSH keys", onboard},
	{"tunnel", "The router keeps an SSH tunnel, and is initialized through it", keepTunnel},
	{"forward", "A connection goes through the tunnel", useTunnel},
	{"audit", "The audit record has it all", func(_ context.Context, w *world) (facts, error) { return w.events.summary(), nil }},
}
