package pki

import "sync/atomic"

// Counters counts events since the Manager was made.
type Counters struct {
	CSRSuccess    uint64 `json:"csr_success"`
	CSRFailure    uint64 `json:"csr_failure"`
	ImportSuccess uint64 `json:"certificate_import_success"`
	ImportFailure uint64 `json:"certificate_import_failure"`
	// The own certificates that became expired, otherwise invalid, or revoked.
	CertificateExpired uint64 `json:"certificate_expired"`
	CertificateInvalid uint64 `json:"certificate_invalid"`
	CertificateRevoked uint64 `json:"certificate_revoked"`
	// The same for certificates of peers: of watched ones, and of those that
	// were refused in a handshake.
	PeerExpired uint64 `json:"peer_certificate_expired"`
	PeerInvalid uint64 `json:"peer_certificate_invalid"`
	PeerRevoked uint64 `json:"peer_certificate_revoked"`
}

type stateCounters struct{ expired, invalid, revoked atomic.Uint64 }

func (c *stateCounters) count(s State) {
	switch s {
	case StateExpired:
		c.expired.Add(1)
	case StateRevoked:
		c.revoked.Add(1)
	case StateInvalid, StateNotYetValid:
		c.invalid.Add(1)
	}
}

type counterSet struct {
	csrSuccess, csrFailure, importSuccess, importFailure atomic.Uint64
	own, peer                                            stateCounters
}

// Counters returns the counters as they are now.
func (m *Manager) Counters() Counters {
	c := &m.counters
	return Counters{
		CSRSuccess: c.csrSuccess.Load(), CSRFailure: c.csrFailure.Load(),
		ImportSuccess: c.importSuccess.Load(), ImportFailure: c.importFailure.Load(),
		CertificateExpired: c.own.expired.Load(), CertificateInvalid: c.own.invalid.Load(), CertificateRevoked: c.own.revoked.Load(),
		PeerExpired: c.peer.expired.Load(), PeerInvalid: c.peer.invalid.Load(), PeerRevoked: c.peer.revoked.Load(),
	}
}
