package sco

import "time"

// Bounds on what comes from outside. Those of the messages themselves are in
// internal/wire, those of tokens in internal/jot.
const (
	// secretLen is the length of a pre-shared secret.
	secretLen = 48

	maxNameLen    = 63
	maxAssetIDLen = 128
	maxNodes      = 2

	// maxEndorsementKey bounds the configured key, base64.
	maxEndorsementKey = 2048
	// maxPCR is the highest platform configuration register.
	maxPCR = 23

	maxAddresses  = 16
	maxAddressLen = 260
	// maxHostLen bounds a name in an address, as the DNS does.
	maxHostLen = 253

	// maxStoredRouter bounds a router's record in a store.
	maxStoredRouter = 256 << 10

	// maxReason bounds the reasons kept in a router's state.
	maxReason = 400

	defaultLifetime = 24 * time.Hour
	maxLifetime     = 365 * 24 * time.Hour

	// tlsTimeout and helloTimeout bound what a stranger can hold a connection
	// for; proofTimeout is granted only to one that knows the secret, because
	// a slow TPM needs seconds.
	tlsTimeout   = 10 * time.Second
	helloTimeout = 10 * time.Second
	proofTimeout = 60 * time.Second
	ackTimeout   = 30 * time.Second
	// maxAttemptTime is what all of them, and writing the store, can take.
	maxAttemptTime = 2 * time.Minute

	// maxAttempts is how many attempts of one asset-id may run at a time, so
	// that a stolen token does not fill the conductor with proven clients.
	maxAttempts = 8

	// maxRecordDelay is how late a connection may be recorded and still be
	// known as older than one that was recorded before it.
	maxRecordDelay = time.Minute

	// refuseDelay is the least time from a connection's start to a refusal.
	refuseDelay = 100 * time.Millisecond

	// reasonInterval is the shortest time between two records of a failure of
	// the same asset-id by clients that have not shown that they know the
	// secret, and reasonEntries how many asset-ids are remembered for it.
	reasonInterval = 5 * time.Second
	reasonEntries  = 4096

	// maxEnrollment bounds the router's own state file.
	maxEnrollment = 1 << 20
	// maxOnboardingConfig bounds onboarding-config.json.
	maxOnboardingConfig = 256 << 10
)
