package download

import "github.com/mooringlib/mooring/internal/durable"

// WithWriter returns cfg with a writer that a test controls.
func (c Config) WithWriter(w durable.Writer) Config {
	c.writer = w
	return c
}
