package repo

import "github.com/mooringlib/mooring/internal/durable"

// WithWriter returns cfg with a writer that a test controls.
func (cfg MakeConfig) WithWriter(w durable.Writer) MakeConfig {
	cfg.writer = w
	return cfg
}
