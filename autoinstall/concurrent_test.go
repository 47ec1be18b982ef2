package autoinstall_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/durable"
)

func TestFilesOfTheProductAreNotSwept(t *testing.T) {
	b := newBench(t, nil)
	require.NoError(t, os.MkdirAll(b.cfg.Dir, 0o700))
	f, err := durable.Writer{}.Create(filepath.Join(b.cfg.Dir, "device.json"), 0o600)
	require.NoError(t, err)
	defer f.Abort()
	require.NoError(t, b.device(t).Load(t.Context(), []byte(config1), autoinstall.Load{}))
	require.NoError(t, f.Commit(), "a replacement that runs beside the device")
}

// TestTheStatusIsWrittenUnderTheLock holds one device's write of the status at
// its rename, and sees that another one doesn't come in between.
func TestTheStatusIsWrittenUnderTheLock(t *testing.T) {
	b := newBench(t, nil)
	reached, proceed := make(chan struct{}), make(chan struct{})
	writes := 0
	slow, err := autoinstall.New(b.cfg.WithDisk(durable.Writer{Before: func(s durable.Step, path string) error {
		if s == durable.StepRename && filepath.Base(path) == "status.json" {
			// The first is the attempt's beginning, the second its end.
			if writes++; writes == 2 {
				close(reached)
				<-proceed
			}
		}
		return nil
	}}))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var slowErr error
	wg.Go(func() { slowErr = slow.Once(context.Background()) })
	<-reached
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = b.device(t).Load(ctx, []byte(config1), autoinstall.Load{})
	close(proceed)
	wg.Wait()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, slowErr, autoinstall.ErrNothingYet)
	require.False(t, errors.Is(slowErr, os.ErrNotExist), "the file was swept away below the write")
}
