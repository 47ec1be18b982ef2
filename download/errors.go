package download

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mooringlib/mooring/download/internal/partial"
)

// Reasons for which a download ends or is refused.
var (
	// ErrTimeout says that the overall timeout ended the download.
	ErrTimeout = errors.New("the timeout has passed")
	// ErrAttempts says that every attempt was used.
	ErrAttempts = errors.New("all attempts have failed")
	// ErrNoVersion says that no source that answered has the version.
	ErrNoVersion = errors.New("no source has this version")
	// ErrRollback says that a manifest is older than one accepted before.
	ErrRollback = errors.New("manifest is older than one that was accepted before")
	// ErrConflict says that two images were signed as one version.
	ErrConflict = errors.New("sources disagree about the image")
	// ErrInUse says that another process has this download.
	ErrInUse = partial.ErrLocked
	// ErrUnknown says that the state directory knows no such download.
	ErrUnknown = errors.New("no download of this version is known")
	// ErrDamagedStatus says that what is known of a download cannot be read. The
	// next Download of the version writes it anew.
	ErrDamagedStatus = errors.New("the status is damaged")
)

// SpaceError says that the disk is full, read-only or over quota. The download
// is paused; what was fetched is kept.
type SpaceError = partial.SpaceError

// Fault classes what went wrong with a source.
type Fault string

// The faults. What follows from each is in the comment.
const (
	FaultConnection Fault = "connection" // could not connect, or cut: a failed request
	FaultStalled    Fault = "stalled"    // no byte for a while: a failed request
	FaultSlow       Fault = "slow"       // below the floor: a failed request
	FaultStatus     Fault = "status"     // 5xx and other answers: a failed request
	FaultProtocol   Fault = "protocol"   // an answer that breaks the rules: a failed request and a strike
	FaultWrongBytes Fault = "wrong bytes"
	FaultBusy       Fault = "busy"      // 429, 503 with Retry-After: rests, costs no attempt
	FaultNotFound   Fault = "not found" // 404, 410: not asked again in this attempt
	FaultForbidden  Fault = "forbidden" // 401, 403: not asked again in this attempt
	FaultTLS        Fault = "tls"       // not asked again in this attempt
	FaultManifest   Fault = "manifest"  // signature, expiry, rollback: left out
)

// SourceError is what a source did wrong. Implementations of [Fetcher] return
// it where they know the fault; any other error counts as FaultConnection.
type SourceError struct {
	Source string
	Fault  Fault
	Err    error
	// RetryAfter is how long a busy source asked to be left alone.
	RetryAfter time.Duration
}

func (e *SourceError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("%s: %v", e.Fault, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Source, e.Fault, e.Err)
}

func (e *SourceError) Unwrap() error { return e.Err }

// FailedError is the end of a download: why it ended, and the last error of
// every source.
type FailedError struct {
	Version string
	Reason  error // ErrTimeout, ErrAttempts
	Sources []*SourceError
}

func (e *FailedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "download: version %q: %v", e.Version, e.Reason)
	for i, s := range e.Sources {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(s.Error())
	}
	return b.String()
}

// Unwrap returns the reason and the error of every source.
func (e *FailedError) Unwrap() []error {
	out := []error{e.Reason}
	for _, s := range e.Sources {
		out = append(out, s)
	}
	return out
}

// asSourceError gives an error of a source its name and class.
func asSourceError(name string, err error) *SourceError {
	var se *SourceError
	if errors.As(err, &se) {
		out := *se
		out.Source = name
		return &out
	}
	return &SourceError{Source: name, Fault: FaultConnection, Err: err}
}
