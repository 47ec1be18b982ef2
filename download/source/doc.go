// Package source has the fetchers that download comes with: [NewHTTP] for a
// repository or a peer behind an HTTP or HTTPS address, and [NewDir] for a
// repository on a mounted medium.
//
// The HTTP source asks for closed ranges (RFC 9110, section 14), decides from
// the answer itself what the server can do, never from HEAD or Accept-Ranges,
// and refuses answers that break the rules. It never follows a redirect from
// https to http. It reads no environment; a proxy is configuration.
//
// Fetchers are safe for concurrent use and hold no secret.
package source
