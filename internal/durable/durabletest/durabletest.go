// Package durabletest stops an operation before each of its durable steps, so
// that a test can look at what a crash there leaves behind.
package durabletest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mooringlib/mooring/internal/durable"
)

// maxSteps bounds a run, so that an operation that retries for ever after a
// stop fails its test instead of hanging it.
const maxSteps = 10_000

// EachStop runs op again and again: the first time it dies before its first
// durable step, the second time before its second, and so on until it runs to
// its end. Each run is a subtest named by its step. setup prepares a fresh state
// for a run; op does the work with the writer that it gets; check looks at what
// is left, with done telling whether op reached its end.
//
// op must return an error that wraps [durable.ErrStopped] when it was stopped:
// a run that swallows it fails.
func EachStop[S any](t *testing.T, setup func(t *testing.T) S, op func(s S, w durable.Writer) error, check func(t *testing.T, s S, done bool)) {
	t.Helper()
	for n := range maxSteps {
		var done bool
		var at string
		s := setup(t)
		count := 0
		w := durable.Writer{Before: func(step durable.Step, path string) error {
			count++
			if count > n {
				if at == "" {
					at = string(step)
				}
				return durable.ErrStopped
			}
			return nil
		}}
		err := op(s, w)
		switch {
		case at == "":
			if err != nil {
				t.Fatalf("run to the end failed: %v", err)
			}
			done = true
		case !errors.Is(err, durable.ErrStopped):
			t.Fatalf("stopped before step %d (%s), but the operation returned %v", n+1, at, err)
		}
		name := fmt.Sprintf("before step %d (%s)", n+1, at)
		if done {
			name = "to the end"
		}
		t.Run(name, func(t *testing.T) { check(t, s, done) })
		if done {
			if n == 0 {
				t.Fatal("the operation has no durable step: was the writer handed on?")
			}
			return
		}
	}
	t.Fatalf("no end after %d steps", maxSteps)
}
