package operator

import "github.com/mooringlib/mooring/internal/durable"

// WithWriter returns a configuration that writes through w.
func WithWriter(cfg Config, w durable.Writer) Config {
	cfg.writer = w
	return cfg
}

// PublishWith is Publish through w.
func PublishWith(w durable.Writer, path string, data []byte) error { return publish(w, path, data) }
