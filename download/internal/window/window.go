// Package window counts failures among the last requests to one source.
package window

// Window remembers the outcome of the last requests. It is not safe for
// concurrent use. The zero value is not ready: use New.
type Window struct {
	ring  []bool // true is a failure
	share float64
	next  int
	full  bool
	fails int
}

// New returns a window over size requests that trips when more than share of
// size requests failed. A window that is not full yet is judged by the same
// number of failures, so with 10 and 0.5 six failures trip it, however few
// requests there were.
func New(size int, share float64) Window {
	return Window{ring: make([]bool, size), share: share}
}

// Record adds an outcome.
func (w *Window) Record(failed bool) {
	if w.full && w.ring[w.next] {
		w.fails--
	}
	w.ring[w.next] = failed
	if failed {
		w.fails++
	}
	w.next++
	if w.next == len(w.ring) {
		w.next, w.full = 0, true
	}
}

// Failures returns how many of the remembered requests failed.
func (w *Window) Failures() int { return w.fails }

// Tripped reports whether the source counts as unavailable.
func (w *Window) Tripped() bool { return float64(w.fails) > w.share*float64(len(w.ring)) }
