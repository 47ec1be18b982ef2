package pki

import "time"

const (
	// maxName bounds a name, which becomes the name of files.
	maxName = 64
	// maxIngest bounds the text of a certificate with its chain, in bytes.
	maxIngest = 256 << 10
	// maxIngestCerts bounds the certificates in it.
	maxIngestCerts = 16
	// maxBundle bounds the text of a trust bundle, in bytes.
	maxBundle = 1 << 20
	// maxBundleCerts bounds the certificates in it.
	maxBundleCerts = 256
	// maxBundles bounds the bundles that are loaded.
	maxBundles = 256
	// maxManaged bounds the names that one directory may hold.
	maxManaged = 4096
	// maxPeers bounds the peers that are watched.
	maxPeers = 1 << 17
	// maxCache bounds the remembered results of peer validation.
	maxCache = 1 << 16
	// maxRefused bounds the remembered refusals. Anybody can cause them.
	maxRefused = 1024
	// maxAltNames bounds the subjectAltNames of a request.
	maxAltNames = 64
	// maxValidity bounds validity_period, in days.
	maxValidity = 36500
	// maxAlarmText bounds the text of an alarm, in bytes.
	maxAlarmText = 500
)

const (
	// lockTimeout bounds the wait for another process that writes.
	lockTimeout = 30 * time.Second
	// renewTimeout bounds one attempt to renew.
	renewTimeout = 5 * time.Minute
	// renewRetryMin and renewRetryMax bound the wait after a failed attempt.
	renewRetryMin = time.Minute
	renewRetryMax = 6 * time.Hour
	// refusedFor is how long a refusal of a peer is remembered at most.
	refusedFor = 10 * time.Second
)

// The alarm thresholds: minor within a month, major within a week.
const (
	minorBefore = 30 * 24 * time.Hour
	majorBefore = 7 * 24 * time.Hour
)
