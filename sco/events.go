package sco

import (
	"context"
	"encoding/json"
	"time"

	"github.com/mooringlib/mooring"
)

// The types of the audit events.
const (
	eventTokenIssued  = "sco.token_issued"
	eventRefused      = "sco.attempt_refused"
	eventOnboarded    = "sco.onboarded"
	eventReleased     = "sco.binding_released"
	eventConnected    = "sco.connected"
	eventDisconnected = "sco.disconnected"
)

// eventDetail is the JSON detail of every event.
type eventDetail struct {
	Router   string    `json:"router,omitempty"`
	AssetID  string    `json:"asset-id,omitempty"`
	Mode     string    `json:"mode,omitempty"`
	Evidence string    `json:"evidence,omitempty"`
	Key      string    `json:"key,omitempty"`
	SSHKey   string    `json:"ssh-key,omitempty"`
	TLSGroup string    `json:"tls-group,omitempty"`
	Remote   string    `json:"remote,omitempty"`
	TokenID  string    `json:"token-id,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	// Suppressed counts the like that were not recorded because they came
	// too fast.
	Suppressed int `json:"suppressed,omitempty"`
}

func (g *Registry) event(ctx context.Context, typ, text string, permitted bool, d eventDetail) {
	if g.cfg.Events == nil {
		return
	}
	// A struct of strings and numbers always encodes.
	detail, _ := json.Marshal(d)
	g.cfg.Events.RecordEvent(ctx, mooring.Event{
		Type:        typ,
		Time:        g.now(),
		Node:        g.cfg.Node,
		Description: text,
		Detail:      detail,
		Permitted:   permitted,
	})
}
