package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// recordTimeout bounds what is written when a tunnel ends, also while the program
// stops. What is not written by then is put right at the next start.
const recordTimeout = 30 * time.Second

// links joins the SSH server to the registry.
type links struct {
	registry *sco.Registry
	log      *slog.Logger

	mu  sync.Mutex
	ids map[string]string // session to link
}

// AuthorizeKey implements [tunnel.Authorizer].
func (l *links) AuthorizeKey(ctx context.Context, _ string, key ssh.PublicKey) (tunnel.Peer, error) {
	p, err := l.registry.Lookup(ctx, key)
	if errors.Is(err, sco.ErrUnknownKey) {
		return tunnel.Peer{}, tunnel.ErrUnauthorized
	}
	if err != nil {
		return tunnel.Peer{}, err
	}
	return tunnel.Peer{AssetID: p.AssetID, Router: p.Router, Node: p.Node}, nil
}

func registryPeer(p tunnel.Peer) sco.Peer {
	return sco.Peer{Router: p.Router, Node: p.Node, AssetID: p.AssetID}
}

// sessionPeer also says by which key and since when, so that a connection that is
// recorded late does not pass for the present one.
func sessionPeer(s tunnel.Session) sco.Peer {
	p := registryPeer(s.Peer)
	p.SSHKey, p.Since = s.Fingerprint, s.Since
	return p
}

// Connected implements [tunnel.Observer].
func (l *links) Connected(ctx context.Context, s tunnel.Session) {
	id, err := l.registry.Connected(ctx, sessionPeer(s), s.RemoteAddr)
	if err != nil {
		l.log.ErrorContext(ctx, "recording a tunnel failed", "router", s.Peer.Router, "error", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil {
		l.ids = make(map[string]string)
	}
	l.ids[s.ID] = id
}

// Disconnected implements [tunnel.Observer].
func (l *links) Disconnected(ctx context.Context, s tunnel.Session, reason error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	l.mu.Lock()
	id := l.ids[s.ID]
	delete(l.ids, s.ID)
	l.mu.Unlock()
	if id == "" {
		return
	}
	if err := l.registry.Disconnected(ctx, registryPeer(s.Peer), id, reason.Error()); err != nil {
		l.log.ErrorContext(ctx, "recording the end of a tunnel failed", "router", s.Peer.Router, "error", err)
	}
}

// Configuration implements [tunnel.Initializer]. A product would deliver its own
// configuration; this program has only what it knows of the router.
func (l *links) Configuration(ctx context.Context, p tunnel.Peer) ([]byte, error) {
	r, err := l.registry.Get(ctx, p.Router)
	if err != nil {
		return nil, err
	}
	c := struct {
		Router            string `json:"router"`
		InterNodeSecurity string `json:"inter-node-security,omitempty"`
		Node              string `json:"node"`
		AssetID           string `json:"asset-id"`
		Role              string `json:"role,omitempty"`
	}{Router: r.Name, InterNodeSecurity: r.InterNodeSecurity, Node: p.Node, AssetID: p.AssetID}
	if n := r.Node(p.AssetID); n != nil {
		c.Role = n.Role
	}
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), err
}

// Initialized implements [tunnel.Initializer].
func (l *links) Initialized(ctx context.Context, p tunnel.Peer, r tunnel.Result, problem string) error {
	switch r {
	case tunnel.Applied:
		return l.registry.Initialized(ctx, registryPeer(p))
	case tunnel.RebootNeeded:
		l.log.InfoContext(ctx, "router reboots to finish its initialization", "router", p.Router, "node", p.Node)
	default:
		l.log.WarnContext(ctx, "router could not apply its configuration", "router", p.Router, "node", p.Node, "problem", problem)
	}
	return nil
}
