package directory

import "github.com/mooringlib/mooring/internal/durable"

// OpenStoreOn opens a store that writes through w.
func OpenStoreOn(dir string, w durable.Writer) (*Store, error) { return openStore(dir, w) }
