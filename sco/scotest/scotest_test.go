package scotest_test

import (
	"testing"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/scotest"
)

func TestMemoryStore(t *testing.T) {
	scotest.TestStore(t, func(*testing.T) func() sco.RouterStore {
		m := &sco.MemoryStore{}
		return func() sco.RouterStore { return m }
	})
}
