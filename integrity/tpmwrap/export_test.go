package tpmwrap

import "github.com/mooringlib/mooring/internal/durable"

// WithWriter returns cfg with the writer through which its files go.
func WithWriter(cfg Config, w durable.Writer) Config {
	cfg.writer = w
	return cfg
}

// ParseBlob reads and writes a wrapped key again.
func ParseBlob(data []byte) ([]byte, error) {
	b, err := parseBlob(data)
	if err != nil {
		return nil, err
	}
	return b.marshal()
}
