package pki

import "github.com/mooringlib/mooring/internal/durable"

// SetWriter lets a test stop the Manager's writing.
func (m *Manager) SetWriter(w durable.Writer) { m.files.Writer = w }
