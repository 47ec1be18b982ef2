package integrity_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mooringlib/mooring/integrity"
)

// TestAnotherHandlerAtWorkIsWaitedFor has a check at work during the start: no
// reason for an emergency, unless it never ends.
func TestAnotherHandlerAtWorkIsWaitedFor(t *testing.T) {
	r := newRig(t, newFakeDisk(t), newFakeMachine(t), bootNone, integrity.ModeDirect)
	require.NoError(t, r.handler(t).Enable(t.Context()))
	lock, err := os.Open(r.state)
	require.NoError(t, err)
	defer lock.Close()
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		released := time.AfterFunc(time.Minute, func() { _ = unix.Flock(int(lock.Fd()), unix.LOCK_UN) })
		defer released.Stop()
		require.NoError(t, r.handler(t).RunOnce(t.Context()))
		require.NotContains(t, r.consoleText(), "EMERGENCY")

		require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		begin := time.Now()
		require.ErrorContains(t, r.handler(t).RunOnce(t.Context()), "another integrity handler is at work")
		require.Less(t, time.Since(begin), 2*time.Minute)
		require.Contains(t, r.consoleText(), "EMERGENCY")
		findings, err := r.handler(t).Check(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.False(t, findings[0].OK)
	})
}
