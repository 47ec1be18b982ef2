// Package mooring is the root of a library that takes a router from first
// power-on to trusted operation, and keeps it trusted.
//
// The work is done by six packages that do not import one another:
//
//   - sco onboards a router to its conductor and keeps an SSH tunnel to it;
//   - pki makes keys and requests, takes certificates in, and watches them;
//   - crl finds, fetches, checks and publishes revocation lists;
//   - download fetches software images over bad links;
//   - integrity keeps secrets encrypted at rest under a TPM-held key;
//   - autoinstall fetches the first configuration (RFC 8886).
//
// This package holds only the vocabulary that all of them speak: an [Alarm] is
// a condition that lasts until it is cleared, an [Event] is one line of the
// audit record. A product implements [AlarmSink] and [EventSink] once and hands
// the same sinks to every package. A nil sink is allowed everywhere and means
// that nobody listens.
//
// The types here follow semantic versioning together with the module. No
// function of this package does I/O or starts a goroutine.
package mooring
