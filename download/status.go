package download

import (
	"time"

	"github.com/mooringlib/mooring/download/repo"
)

// State says where a download stands.
type State string

// The states.
const (
	// StateQuerying asks the sources for their versions.
	StateQuerying State = "querying"
	// StateDownloading fetches.
	StateDownloading State = "downloading"
	// StatePeer waits for the HA peer, and takes from it what it has.
	StatePeer State = "waiting-for-peer"
	// StateWaiting waits between two attempts.
	StateWaiting State = "waiting"
	// StatePaused was paused by an operator or by a full disk.
	StatePaused State = "paused"
	// StateComplete has the image under its name, verified.
	StateComplete State = "complete"
	// StateFailed has ended without the image.
	StateFailed State = "failed"
	// StateInterrupted is what is shown of a download whose process is gone.
	StateInterrupted State = "interrupted"
)

// active reports whether a process should be at work in this state.
func (s State) active() bool {
	switch s {
	case StateComplete, StateFailed, StateInterrupted:
		return false
	}
	return true
}

// Status is all that there is to see of a download.
type Status struct {
	Version string `json:"version"`
	Out     string `json:"out"`
	State   State  `json:"state"`
	// Reason is one line: what it waits for, or why it ended.
	Reason string `json:"reason,omitempty"`
	// Source is where bytes come from now.
	Source string `json:"source,omitempty"`
	// Attempt counts from 1; Attempts is the limit, 0 is none.
	Attempt  int `json:"attempt"`
	Attempts int `json:"attempts"`
	// NextAttempt and Deadline are zero when there is none.
	NextAttempt time.Time `json:"next-attempt,omitzero"`
	Deadline    time.Time `json:"deadline,omitzero"`
	// Size, Verified and Durable count bytes of the image.
	Size     int64 `json:"size"`
	Verified int64 `json:"verified"`
	Durable  int64 `json:"durable"`
	// Received counts bytes that sources sent in this process, Wasted those of
	// them that were of no use.
	Received int64 `json:"received"`
	Wasted   int64 `json:"wasted"`
	// Rate is in bits per second, over the last seconds; TimeLeft in seconds, -1
	// when it is not known.
	Rate        int64          `json:"rate"`
	TimeLeft    int64          `json:"time-left"`
	Connections int            `json:"connections"`
	Sources     []SourceStatus `json:"sources,omitempty"`
	SHA256      *repo.Digest   `json:"sha256,omitempty"`
	Started     time.Time      `json:"started"`
	Updated     time.Time      `json:"updated"`
	// Sequenced is "first" or "second" in a sequenced pair.
	Sequenced Role `json:"sequenced,omitempty"`
}

// SourceStatus is one source in a [Status].
type SourceStatus struct {
	Name     string `json:"name"`
	Kind     Kind   `json:"kind"`
	State    string `json:"state"` // candidate, in use, resting, unavailable, left out
	Error    string `json:"error,omitempty"`
	Received int64  `json:"received"`
	Failures int    `json:"failures"` // among the last requests
}

// Role is a node's part in a sequenced HA pair.
type Role string

// The roles. The empty role downloads by itself.
const (
	RoleFirst  Role = "first"
	RoleSecond Role = "second"
)
