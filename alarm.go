package mooring

import (
	"context"
	"fmt"
	"time"
)

// Severity says how urgent an alarm is. The zero value is not a severity.
type Severity uint8

// The severities, from the least urgent to the most urgent.
const (
	SeverityMinor Severity = iota + 1
	SeverityMajor
	SeverityCritical
)

var severityNames = [...]string{SeverityMinor: "minor", SeverityMajor: "major", SeverityCritical: "critical"}

// String returns "minor", "major" or "critical".
func (s Severity) String() string {
	if s < SeverityMinor || s > SeverityCritical {
		return fmt.Sprintf("Severity(%d)", uint8(s))
	}
	return severityNames[s]
}

// MarshalText implements [encoding.TextMarshaler]. It fails for a value that is
// not one of the three severities.
func (s Severity) MarshalText() ([]byte, error) {
	if s < SeverityMinor || s > SeverityCritical {
		return nil, fmt.Errorf("mooring: %d is not a severity", uint8(s))
	}
	return []byte(severityNames[s]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]. It accepts exactly what
// [Severity.MarshalText] writes.
func (s *Severity) UnmarshalText(text []byte) error {
	for i := SeverityMinor; i <= SeverityCritical; i++ {
		if severityNames[i] == string(text) {
			*s = i
			return nil
		}
	}
	return fmt.Errorf("mooring: severity is minor, major or critical, not %.32q", text)
}

// Alarm is a condition that needs somebody's attention and lasts until it is
// cleared. It is a value: a package raises it by handing it to an [AlarmSink],
// raises it again when severity or text change, and clears it by handing it over
// once more with Cleared set.
type Alarm struct {
	// ID names the condition and is the same from raise to clear. It is unique
	// within a product: packages prefix it with their name, such as
	// "pki.certificate/peering".
	ID string `json:"id"`
	// Severity is never zero.
	Severity Severity `json:"severity"`
	// Subject is the thing that is in this condition: the name of a
	// certificate, the URL of a list, an asset-id.
	Subject string `json:"subject"`
	// Text is one line for the operator. It never holds a secret.
	Text string `json:"text"`
	// Raised is when the condition was first seen.
	Raised time.Time `json:"raised"`
	// Cleared is when the condition ended; zero while it lasts.
	Cleared time.Time `json:"cleared,omitzero"`
}

// Active reports whether the condition still lasts.
func (a Alarm) Active() bool { return a.Cleared.IsZero() }

// AlarmSink takes alarms. Implementations are safe for concurrent use, keep the
// newest alarm per ID, and do not block: a call is made from the middle of the
// caller's work. ctx carries values and cancellation of that work only.
type AlarmSink interface {
	SetAlarm(ctx context.Context, a Alarm)
}
