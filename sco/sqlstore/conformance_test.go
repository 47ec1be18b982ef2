package sqlstore_test

import (
	"testing"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/scotest"
)

func TestConformance(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backend) {
		scotest.TestStore(t, func(t *testing.T) func() sco.RouterStore {
			b := fresh(t)
			return func() sco.RouterStore { return b.mustOpen(t) }
		})
	})
}
