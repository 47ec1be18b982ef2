// Package tunnel keeps SSH connections between routers and their conductor, and
// forwards TCP connections through them in both directions.
//
// A [Server] is the conductor's side, usually on port 930. A [Client] is the
// router's side: [Client.Run] tries the conductor's addresses in order, keeps
// the connection alive, and comes back with growing, random delays for as long
// as its context lasts. Start with New functions of the two and their Config
// structs. The connection is plain SSH (RFC 4251 to 4254), and either side may
// be a stock OpenSSH: the file PROTOCOL.md in this folder says what is used of
// SSH and describes the one extension, by which a conductor initializes a
// router.
//
// # Who is who
//
// Both sides know each other's public key before they meet: onboarding (package
// sco) has exchanged them. A client accepts exactly the host keys in
// [ClientConfig].HostKeys, never a certificate and never a key seen for the
// first time. A server takes the identity of a router only from the key whose
// signature it has checked, through [Authorizer], and asks again from time to
// time, so that a router that is removed or released also loses the connection
// that it has.
//
// Private keys stay with the caller: this package sees an [ssh.Signer], which
// may stand for a key in a TPM.
//
// # What it refuses
//
// There is no shell, no command, no subsystem, no agent, no X11 and no Unix
// socket forwarding, and no authentication but by public key. What one side may
// ask the other to connect to or to listen on is decided by [Rules]; the zero
// Rules refuse everything. A client refuses every connection that the conductor
// did not get asked for by one of the client's own [Forward] entries. Only
// authenticated encryption and curves are offered, with the hybrid
// mlkem768x25519-sha256 key exchange preferred; RequirePostQuantum refuses all
// others.
//
// # Resources
//
// A server bounds the connections that have not authenticated (their number and
// their time), connections altogether and for each router, and channels and
// listeners for each connection; see the limits in [ServerConfig]. When the room
// for unauthenticated connections is used up, the oldest one of the address
// prefix that holds most of them makes place, so that one address can't lock
// the others out; a newcomer of that same prefix waits until it has had a fair
// time.
//
// # Stability
//
// The package is larger than its siblings because the two ends of the connection
// are one subject: they share forwarding, keepalive, initialization and their
// bounds.
//
// The wire format is versioned. The Go API follows the module's version.
package tunnel
