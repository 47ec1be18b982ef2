package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/mooringlib/mooring/integrity"
)

func unmet(findings []integrity.Finding) int {
	n := 0
	for _, f := range findings {
		if !f.OK {
			n++
		}
	}
	return n
}

func showJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func showFindings(w io.Writer, findings []integrity.Finding, asJSON bool) error {
	if asJSON {
		return showJSON(w, struct {
			OK           bool                `json:"ok"`
			Requirements []integrity.Finding `json:"requirements"`
		}{unmet(findings) == 0, findings})
	}
	for _, f := range findings {
		word := "pass"
		if !f.OK {
			word = "FAIL"
		}
		line := word + "  " + f.Requirement
		if f.Detail != "" {
			line += ": " + f.Detail
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func showStatus(w io.Writer, st integrity.Status, asJSON bool) error {
	if asJSON {
		return showJSON(w, st)
	}
	fmt.Fprintf(w, "enabled:  %s\nunlocked: %s\nmode:     %s\nTPM:      %s\n", yes(st.Enabled), yes(st.Unlocked), st.Mode, st.Hardware)
	if st.Problem != "" {
		fmt.Fprintf(w, "problem:  %s\n", st.Problem)
	}
	for _, d := range st.Directories {
		state := "locked"
		switch {
		case d.Unlocked:
			state = "unlocked"
		case d.Identifier == "":
			state = "not protected"
		}
		fmt.Fprintf(w, "%s: %s", d.Path, state)
		if d.Identifier != "" {
			fmt.Fprintf(w, ", key %s", d.Identifier)
		}
		if d.Problem != "" {
			fmt.Fprintf(w, ", %s", d.Problem)
		}
		fmt.Fprintln(w)
	}
	if e := st.LastEvent; e != nil {
		fmt.Fprintf(w, "last event: %s %s\n", e.Time.Format(time.RFC3339), e.Text)
		return nil
	}
	_, err := fmt.Fprintln(w, "last event: none")
	return err
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
