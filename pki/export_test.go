package pki

import (
	"context"

	"github.com/mooringlib/mooring/internal/durable"
)

// SetWriter lets a test stop the Manager's writing.
func (m *Manager) SetWriter(w durable.Writer) { m.files.Writer = w }

// Remembered returns how many results of validation are remembered.
func (m *Manager) Remembered() (good, refused int) {
	m.cache.mu.RLock()
	defer m.cache.mu.RUnlock()
	return len(m.cache.good), len(m.cache.refused)
}

// MaxRefused is the bound on remembered refusals.
const MaxRefused = maxRefused

// LookAtForgotten is the end of a WatchPeer that a ForgetPeer has overtaken.
func (m *Manager) LookAtForgotten(ctx context.Context, p Peer) error {
	m.op.Lock()
	defer m.op.Unlock()
	return m.lookAtPeer(ctx, &peerState{peer: p, state: StateValid})
}

// The bounds on names and bundles of a directory.
const (
	MaxManaged = maxManaged
	MaxBundles = maxBundles
)
