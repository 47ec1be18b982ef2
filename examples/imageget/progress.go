package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mooringlib/mooring/download"
)

// lineEvery is how often a line is printed where there is no terminal.
const lineEvery = 2 * time.Second

// printer shows a download: a bar on a terminal, lines elsewhere, or JSON.
type printer struct {
	out   io.Writer
	json  bool
	bar   bool
	width int
	state download.State
	last  time.Time
}

func newPrinter(out io.Writer, asJSON bool) *printer {
	p := &printer{out: out, json: asJSON}
	if f, ok := out.(*os.File); ok && !asJSON && term.IsTerminal(int(f.Fd())) {
		p.bar = true
		if p.width, _, _ = term.GetSize(int(f.Fd())); p.width < 40 {
			p.width = 80
		}
	}
	return p
}

// event is one line of -json.
type event struct {
	Event string `json:"event"` // state, progress, complete, failed
	download.Status
	Error string `json:"error,omitempty"`
}

func (p *printer) progress(st download.Status) {
	changed := st.State != p.state
	p.state = st.State
	switch {
	case st.State == download.StateComplete || st.State == download.StateFailed || st.State == download.StateInterrupted:
		// end says it.
	case p.json:
		kind := "progress"
		if changed {
			kind = "state"
		}
		p.event(event{Event: kind, Status: st})
	case p.bar:
		fmt.Fprintf(p.out, "\r%s\x1b[K", bar(st, p.width-1))
	case changed || time.Since(p.last) >= lineEvery:
		p.last = time.Now()
		fmt.Fprintln(p.out, line(st))
	}
}

func (p *printer) event(e event) {
	if data, err := json.Marshal(e); err == nil {
		fmt.Fprintf(p.out, "%s\n", data)
	}
}

func (p *printer) end(st download.Status, err error) {
	if st.Version == "" {
		return // it did not begin
	}
	if p.json {
		e := event{Event: string(st.State), Status: st}
		if err != nil {
			e.Error = err.Error()
		}
		p.event(e)
		return
	}
	if p.bar {
		fmt.Fprintf(p.out, "\r%s\x1b[K\n", bar(st, p.width-1))
	}
	if err == nil {
		fmt.Fprintf(p.out, "%s  complete: %s (%s, sha256 %s), %s received\n", st.Version, st.Out, bytesText(st.Size), st.SHA256, bytesText(st.Received))
	}
}

// line is a status on one line.
func line(st download.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", st.Version, st.State)
	if st.Size > 0 {
		fmt.Fprintf(&b, "  %.1f%% of %s", percent(st), bytesText(st.Size))
	}
	if st.Rate > 0 {
		fmt.Fprintf(&b, "  %s", rateText(st.Rate))
	}
	if st.TimeLeft >= 0 {
		fmt.Fprintf(&b, "  %s left", time.Duration(st.TimeLeft)*time.Second)
	}
	if st.Source != "" {
		fmt.Fprintf(&b, "  from %s over %d connections", st.Source, st.Connections)
	}
	if st.State != download.StateComplete {
		fmt.Fprintf(&b, "  attempt %d", st.Attempt)
		if st.Attempts > 0 {
			fmt.Fprintf(&b, " of %d", st.Attempts)
		}
	}
	if !st.NextAttempt.IsZero() {
		fmt.Fprintf(&b, "  next at %s", st.NextAttempt.Format(time.TimeOnly))
	}
	if st.Reason != "" {
		fmt.Fprintf(&b, "  (%s)", st.Reason)
	}
	return b.String()
}

// bar is a status that fits a terminal's line.
func bar(st download.Status, width int) string {
	text := fmt.Sprintf(" %5.1f%% %s", percent(st), st.State)
	if st.Rate > 0 {
		text += " " + rateText(st.Rate)
	}
	if st.TimeLeft >= 0 {
		text += fmt.Sprintf(" %s left", time.Duration(st.TimeLeft)*time.Second)
	}
	if st.Source != "" {
		text += " " + st.Source
	}
	cells := max(width-len(text)-2, 5)
	full := int(percent(st) / 100 * float64(cells))
	s := "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]" + text
	return s[:min(len(s), width)]
}

func percent(st download.Status) float64 {
	if st.Size == 0 {
		return 0
	}
	return float64(st.Verified) * 100 / float64(st.Size)
}

func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

func rateText(bits int64) string {
	switch {
	case bits >= 1_000_000:
		return fmt.Sprintf("%.1f Mbit/s", float64(bits)/1e6)
	case bits >= 1000:
		return fmt.Sprintf("%.1f kbit/s", float64(bits)/1e3)
	}
	return fmt.Sprintf("%d bit/s", bits)
}
