package sco

import "github.com/mooringlib/mooring/internal/durable"

// SetDurable hands a test's writer to Onboard.
func (cfg *OnboardConfig) SetDurable(w durable.Writer) { cfg.durable = w }
