package autoinstall

import (
	"time"

	"github.com/mooringlib/mooring/internal/durable"
)

// WithDisk sets what writes the device's record.
func (c Config) WithDisk(w durable.Writer) Config { c.disk = w; return c }

// WithDisk sets what writes the configuration.
func (f *FileInstaller) WithDisk(w durable.Writer) *FileInstaller { f.disk = w; return f }

// Delay is the delay of a schedule whose defaults are set.
func (s Schedule) Delay(elapsed time.Duration) time.Duration {
	if err := s.setDefaults(); err != nil {
		panic(err)
	}
	return s.delay(elapsed)
}
