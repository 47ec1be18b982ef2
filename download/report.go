package download

import (
	"context"
	"errors"
	"time"
)

const (
	reportEvery = 250 * time.Millisecond
	saveEvery   = time.Second
)

// note remembers the last error of a source.
func (j *job) note(e *SourceError) {
	j.d.cfg.Logger.Info("source fault", "source", e.Source, "fault", string(e.Fault), "error", e.Err)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sources[e.Source] == nil {
		j.order = append(j.order, e.Source)
	}
	j.sources[e.Source] = e
}

// localFailure keeps an error of this node's disk for the scheduler.
func (j *job) localFailure(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.local == nil {
		j.local = err
	}
}

func (j *job) localErr() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.local
}

// set books a change of state, durably, and tells the listener.
func (j *job) set(state State, reason string) {
	j.mu.Lock()
	j.st.State, j.st.Reason = state, reason
	if state != StateDownloading && state != StatePeer {
		j.st.Source, j.st.Connections, j.st.Rate, j.st.TimeLeft = "", 0, 0, -1
	}
	j.mu.Unlock()
	j.publish(true)
}

// publish writes the status down and hands it out.
func (j *job) publish(change bool) {
	now := j.d.cfg.Now()
	j.mu.Lock()
	j.st.Updated = now
	if j.image != nil {
		p := j.image.Progress()
		j.st.Verified, j.st.Durable = p.Verified, p.Durable
	}
	j.st.Received, j.st.Wasted = j.received.Load(), j.wasted.Load()
	save := change || now.Sub(j.reported) >= saveEvery
	if save {
		j.reported = now
	}
	st := j.st
	j.mu.Unlock()
	if save {
		if err := j.d.store.save(st, change); err != nil {
			j.d.cfg.Logger.Warn("the status could not be written", "error", err)
		}
	}
	if j.d.cfg.Progress != nil {
		j.d.cfg.Progress(st)
	}
}

// report takes a snapshot of a round, a few times a second and
// at its end.
func (j *job) report(r *round, last bool) {
	now := time.Now()
	j.mu.Lock()
	if !last && now.Sub(j.lastReport) < reportEvery {
		j.mu.Unlock()
		return
	}
	j.lastReport = now
	j.mu.Unlock()

	r.mu.Lock()
	source, conns := "", len(r.workers)
	states := make([]SourceStatus, 0, len(r.links))
	for _, l := range r.links {
		s := SourceStatus{Name: l.Name, Kind: l.Kind, State: "candidate", Received: l.bytes.Load(), Failures: l.win.Failures()}
		switch {
		case l.leftOut:
			s.State = "left out"
		case l.down:
			s.State = "unavailable"
		case l.rest.After(now):
			s.State = "resting"
		case l.conns > 0 || l == r.current:
			s.State = "in use"
			if source == "" {
				source = l.Name
			}
		}
		if l.err != nil {
			s.Error = l.err.Error()
		}
		states = append(states, s)
	}
	r.mu.Unlock()

	verified := r.im.Progress().Verified
	j.mu.Lock()
	total := j.received.Load()
	j.meter.add(now, total)
	j.st.Rate = j.meter.bits(now, total)
	j.st.TimeLeft = -1
	if j.st.Rate > 0 {
		j.st.TimeLeft = (r.m.Size - verified) * 8 / j.st.Rate
	}
	j.st.Source, j.st.Connections, j.st.Sources = source, conns, states
	j.mu.Unlock()
	j.publish(false)
}

// end books the outcome and returns the last status.
func (j *job) end(ctx context.Context, err error) Status {
	var failed *FailedError
	var space *SpaceError
	switch {
	case err == nil:
		j.set(StateComplete, "")
		j.event(ctx, "software.download_complete", "image verified", nil)
		j.alarm(ctx, nil)
	case errors.As(err, &space):
		j.set(StatePaused, space.Error())
		j.alarm(ctx, err)
	case ctx.Err() != nil:
		j.set(StateInterrupted, "stopped: "+context.Cause(ctx).Error())
	default:
		j.set(StateFailed, err.Error())
		j.event(ctx, "software.download_failed", "download failed", err)
		if errors.As(err, &failed) {
			j.d.cfg.Logger.Warn("download failed", "version", j.req.Version, "error", err)
		}
		j.alarm(ctx, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.st
}
