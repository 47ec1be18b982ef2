package mooring

import (
	"context"
	"encoding/json"
	"time"
)

// Event is one entry of the audit record: something that was done, or was
// refused, at one moment.
type Event struct {
	// Type is the dotted name of what happened, such as "system.generate_csr".
	Type string `json:"type"`
	// Time is when it happened.
	Time time.Time `json:"time"`
	// Node is the name of the node that did it, as the product configured it.
	Node string `json:"node,omitempty"`
	// Description is one line for a person. It never holds a secret.
	Description string `json:"description"`
	// Detail is a JSON object whose fields depend on Type; nil when there is
	// nothing to add. It never holds a secret.
	Detail json.RawMessage `json:"detail,omitempty"`
	// Permitted is false when the action was asked for and refused.
	Permitted bool `json:"permitted"`
}

// EventSink takes the audit record. Implementations are safe for concurrent
// use and do not block: a call is made from the middle of the caller's work.
// The sink owns Detail after the call.
type EventSink interface {
	RecordEvent(ctx context.Context, e Event)
}
