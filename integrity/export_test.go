package integrity

import "github.com/mooringlib/mooring/internal/durable"

// WithWriter returns cfg with the writer through which its files go.
func WithWriter(cfg Config, w durable.Writer) Config {
	cfg.writer = w
	return cfg
}
