package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/mooringlib/mooring"
)

// EventUnauthorized is the type of events about requests without an accepted
// token. Anybody can cause them, so a record may want to keep them apart.
const EventUnauthorized = "directory.unauthorized"

// audit tells about everything that was or was not published.
func (s *Server) audit(ctx context.Context, p Publication, v Version, published bool, err error) {
	if s.cfg.Events == nil || err == nil && !published {
		return
	}
	e := mooring.Event{Type: "directory.publish", Time: s.cfg.Now(), Permitted: err == nil, Description: fmt.Sprintf("certificate of %.64q", p.Serial)}
	if p.Replaces != "" {
		e.Type = "directory.replace"
	}
	detail := map[string]string{"serial": clip(p.Serial), "by": p.By}
	if err != nil {
		detail["error"] = err.Error()
	} else {
		detail["sha256"], detail["key_sha256"] = v.SHA256, v.KeySHA256
	}
	if p.Replaces != "" {
		detail["replaces"], detail["reason"] = clip(p.Replaces), clip(p.Reason)
	}
	e.Detail, _ = json.Marshal(detail)
	s.cfg.Events.RecordEvent(ctx, e)
}

func clip(s string) string { return s[:min(len(s), maxReason)] }

// strangers counts requests without an accepted token, so that somebody who has
// none can't make the audit record grow without bound.
type strangers struct {
	mu     sync.Mutex
	since  time.Time
	count  int
	untold int
}

// note counts a request and says whether it is to be recorded by itself.
func (c *strangers) note(now time.Time) (tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		c.since = now
	}
	c.count++
	if c.count > maxStrangers {
		c.untold++
		return false
	}
	return true
}

// end returns, once after each span, how many requests were not recorded.
func (c *strangers) end(now time.Time) (untold int, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A clock that was set back begins a new span too.
	if age := now.Sub(c.since); c.count == 0 || age >= 0 && age < strangersSpan {
		return 0, time.Time{}
	}
	untold, since = c.untold, c.since
	c.count, c.untold = 0, 0
	return untold, since
}

func (s *Server) auditStranger(ctx context.Context, serial string) {
	if s.cfg.Events == nil || !s.strangers.note(s.cfg.Now()) {
		return
	}
	detail, _ := json.Marshal(map[string]string{"serial": clip(serial), "error": ErrUnauthorized.Error()})
	s.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type: EventUnauthorized, Time: s.cfg.Now(), Description: fmt.Sprintf("certificate of %.64q", serial), Detail: detail,
	})
}

// tellStrangers is called with every request, whosever it is: the number of a
// flood that has ended is told with the next of them.
func (s *Server) tellStrangers(ctx context.Context) {
	untold, since := s.strangers.end(s.cfg.Now())
	if untold == 0 || s.cfg.Events == nil {
		return
	}
	detail, _ := json.Marshal(map[string]any{"requests": untold, "since": since.UTC(), "error": ErrUnauthorized.Error()})
	s.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type: EventUnauthorized, Time: s.cfg.Now(), Description: fmt.Sprintf("%d more requests without an accepted token", untold), Detail: detail,
	})
}
