// Package download fetches software images over links that break, stall and
// lie, and gives an image its name only when every byte of it was verified
// against a signed manifest.
//
// Start with [New] and [Downloader.Download]. Where images come from is behind
// [SourcePool]: [NewPool] orders configured sources by [AccessMode], package
// source has the HTTP and the file source, and a product may bring its own.
// Package repo defines the signed repository, package peer serves what a node
// holds to its HA peer.
//
// A download asks all sources side by side for their versions, keeps those that
// have the wanted one, and takes it from the first. When more than half of a
// source's last ten requests failed, the next takes over at the byte where the
// last one stopped. A failed request is one that brought no new verified bytes.
// When all have failed it waits (30 s, doubling, never more than the maximum
// retry delay) and begins another attempt. Attempts and the timeout bound the
// whole, waits included; see [Policy].
//
// What is resumed is bound to the image's identity out of the signed manifest
// and to nothing else, so a download goes on after a cut, a pause, a crash, a
// restart, and from another source. Every chunk is hashed while it arrives, and
// once more before the image gets its name if an earlier process fetched it; a chunk that is wrong is fetched again, and a source that keeps
// sending wrong bytes is left out and named. Verified chunks are never fetched
// again.
//
// What it refuses: a manifest without a trusted signature, one that has
// expired, one with a lower counter than was accepted before (rollback), and two
// different images under one version and counter. No setting turns this off.
//
// State lives in two places: beside the image (the partial file, its journal and
// a passport; see internal/partial) and in [Config.StateDir] (one status file for
// each version, the pause request, and the rollback counters). No private key
// and no other secret is held or needed.
//
// The package is larger than others here: attempt, round, request and chunk are
// one state machine, and every part of it needs the status, the pause and the
// errors of the sources that the others keep. What stands by itself is in its own
// package (partial, window, repo, source, peer).
//
// Exported names follow the module's semantic version. The engine that runs
// connections is in round.go, the story around it (attempts, waits, pause,
// timeout) in job.go.
package download
