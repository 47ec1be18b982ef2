package crl

import "github.com/mooringlib/mooring/internal/durable"

// SetDurable replaces how files are written.
func (m *Manager) SetDurable(w durable.Writer) { m.durable = w }
