package devicekey

import "github.com/mooringlib/mooring/internal/durable"

// WithDisk sets what writes the keys.
func (c Config) WithDisk(w durable.Writer) Config { c.disk = w; return c }
