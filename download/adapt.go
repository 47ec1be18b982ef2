package download

import "time"

// adapter decides how many connections one source gets. It doubles them while
// the rate grows with them, stops when it doesn't, and tries again now and then,
// because links change.
type adapter struct {
	limit   int
	target  int
	best    float64 // bytes per second, at the last step that paid off
	holds   int
	settled bool
	since   time.Time
	bytes   int64
	probe   time.Duration
	before  int // target before a probe; 0 when none runs
}

const (
	adaptTick  = 150 * time.Millisecond
	adaptGain  = 1.15
	adaptHolds = 2
	probeFirst = 4 * time.Second
	probeMax   = 64 * time.Second
)

func newAdapter(limit int) adapter {
	return adapter{limit: limit, target: min(2, limit), probe: probeFirst}
}

// tick is told the source's byte count; full says that all the connections that
// it asked for are at work.
func (a *adapter) tick(now time.Time, bytes int64, full bool) {
	if a.since.IsZero() || !full {
		a.since, a.bytes = now, bytes
		return
	}
	span := now.Sub(a.since)
	wait := adaptTick
	if a.settled {
		wait = a.probe
	} else if a.before > 0 {
		wait = 6 * adaptTick
	}
	if span < wait {
		return
	}
	if bytes == a.bytes && !a.settled {
		return // nothing came yet on a long path; that says nothing
	}
	rate := float64(bytes-a.bytes) / span.Seconds()
	a.since, a.bytes = now, bytes
	switch {
	case a.settled:
		a.best, a.settled = rate, false
		if a.target < a.limit {
			a.before, a.holds = a.target, 0
			a.target = min(a.limit, a.target+max(1, a.target/2))
		} else {
			a.settled = true
		}
	case rate > a.best*adaptGain:
		a.best, a.holds, a.before = rate, 0, 0
		a.probe = probeFirst
		a.target = min(a.limit, a.target*2)
		a.settled = a.target == a.limit && a.before == a.limit
	default:
		a.holds++
		if a.holds < adaptHolds {
			return
		}
		a.settled, a.holds = true, 0
		if a.before > 0 {
			a.target, a.before = a.before, 0
			a.probe = min(2*a.probe, probeMax)
		}
	}
}
