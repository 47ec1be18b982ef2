package crl

import "time"

const (
	minPolling     = time.Hour
	maxPolling     = 168 * time.Hour
	defaultPolling = 24 * time.Hour

	minBackoff     = time.Second
	maxBackoff     = time.Hour
	defaultBackoff = time.Minute

	// maxRetry is how far the waits between tries grow, so that an outage that
	// ends is noticed within minutes.
	maxRetry = 15 * time.Minute

	defaultGrace = 72 * time.Hour
	maxGrace     = 30 * 24 * time.Hour

	defaultListBytes = 128 << 20
	maxListBytes     = 2 << 30
	defaultEntries   = 4 << 20
	maxEntries       = 64 << 20

	// maxAge is how long a list counts that does not say when the next is due.
	maxAge = 7 * 24 * time.Hour
	// clockSkew is how far another clock may be ahead of ours.
	clockSkew = 10 * time.Minute
	// fetchers is how many addresses are fetched from at once.
	fetchers = 16
	// maxSources bounds the addresses, learned ones included.
	maxSources = 4096
	// maxAlarmText bounds the text of an alarm in bytes.
	maxAlarmText = 500
	// maxStateFile bounds marks.json and state.json.
	maxStateFile = 64 << 20
	// tick is how long the scheduler sleeps at most, so that a clock that was
	// set, or a machine that was suspended, is noticed.
	tick = time.Minute
	// patchAge is how long patches are kept.
	patchAge = 40 * 24 * time.Hour
	// maxManifest bounds what a conductor may answer to a router.
	maxManifest = 16 << 20
	// maxChain bounds the patches that are applied one after another.
	maxChain = 1024
	// maxPatched bounds what the patches of one chain may make together, in
	// times of Config.MaxListBytes.
	maxPatched = 16
	// maxShared bounds the lists that a conductor shares.
	maxShared = 4096
	// signerDepth bounds how far the status of list signers is followed.
	signerDepth = 4
	// massRemoval is the share of entries, in percent, whose disappearance at
	// once is worth an alarm, in lists with at least massRemovalMin entries.
	massRemoval    = 50
	massRemovalMin = 100
	// forgetAfter is how long a list stays, past its nextUpdate, that no source
	// brings any more.
	forgetAfter = 30 * 24 * time.Hour
	// lockWait is how long a writer waits for its turn.
	lockWait = 2 * time.Minute
)
