package sco

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring"
)

// RegistryConfig configures a [Registry].
type RegistryConfig struct {
	// Store is required.
	Store RouterStore
	// Node names this conductor node in events and links. The nodes of an HA
	// pair have different names.
	Node string
	// Events takes the audit record; nil when nobody listens.
	Events mooring.EventSink
	// Logger is nil for silence.
	Logger *slog.Logger
	// Now is time.Now when nil.
	Now func() time.Time
}

// Registry is the conductor's view of its routers: configuration, states,
// pinned keys. All state is in the store, so several registries, in several
// processes, may work on one store. It is safe for concurrent use.
type Registry struct {
	cfg RegistryConfig
}

// NewRegistry checks the configuration. It does no I/O.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.Store == nil {
		return nil, errors.New("sco: RegistryConfig.Store is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Registry{cfg: cfg}, nil
}

func (g *Registry) now() time.Time { return g.cfg.Now().UTC().Truncate(time.Millisecond) }

// Get returns a router by its name, or an error that wraps [ErrNotFound].
func (g *Registry) Get(ctx context.Context, router string) (*Router, error) {
	r, err := g.cfg.Store.Get(ctx, NameKey(router))
	if err != nil {
		return nil, fmt.Errorf("sco: router %.80q: %w", router, err)
	}
	return r, nil
}

// List calls fn for every router in the order of their names, until it returns
// false.
func (g *Registry) List(ctx context.Context, fn func(*Router) bool) error {
	const page = 500
	after := ""
	for {
		routers, err := g.cfg.Store.List(ctx, after, page)
		if err != nil {
			return fmt.Errorf("sco: listing routers: %w", err)
		}
		if len(routers) == 0 {
			return nil
		}
		for _, r := range routers {
			after = r.Name
			if !fn(r) {
				return nil
			}
		}
	}
}

// Configure creates or changes a router's configuration. change gets the
// present router, or a new one with a nil Nodes and mode disabled when exists is
// false, and edits it; an error of it ends the call and nothing is changed. It
// may be called more than once. A secret that is left empty is generated. The
// nodes' states are not its to change: they are kept by asset-id, and a node
// with a new asset-id begins as waiting. An asset-id that is gone afterwards is
// released from its key, and the audit record has that.
func (g *Registry) Configure(ctx context.Context, router string, change func(r *Router, exists bool) error) error {
	if err := checkName("router name", router); err != nil {
		return fmt.Errorf("sco: %w", err)
	}
	var lost []Node
	err := g.cfg.Store.Update(ctx, router, func(old *Router) (*Router, error) {
		lost = nil
		r := &Router{Name: router}
		status := map[string]Status{}
		var before []Node
		if old != nil {
			r = old
			before = old.Clone().Nodes
			for _, n := range before {
				status[n.AssetID] = n.Status
			}
		}
		if err := change(r, old != nil); err != nil {
			return nil, err
		}
		r.Name = router
		if r.Secret.IsZero() {
			r.Secret = NewSecret()
		}
		for i := range r.Nodes {
			r.Nodes[i].Status = Status{}
			if s, ok := status[r.Nodes[i].AssetID]; ok && r.Nodes[i].AssetID != "" {
				r.Nodes[i].Status = s
			}
		}
		for _, n := range before {
			if r.Node(n.AssetID) == nil {
				lost = append(lost, n)
			}
		}
		return r, r.validate()
	})
	if err != nil {
		return fmt.Errorf("sco: configuring router %q: %w", router, err)
	}
	g.lost(ctx, router, lost, "it is not in the router's configuration any more")
	return nil
}

// lost tells of nodes that went, and their keys with them.
func (g *Registry) lost(ctx context.Context, router string, nodes []Node, why string) {
	for i := range nodes {
		if n := &nodes[i]; n.Status.Binding != nil || n.Status.SSHKey != "" {
			g.released(ctx, router, n, why)
		}
	}
}

// released tells that an asset-id is bound no more. n is as it was before.
func (g *Registry) released(ctx context.Context, router string, n *Node, why string) {
	d := eventDetail{Router: router, AssetID: n.AssetID, Reason: why}
	if b := n.Status.Binding; b != nil {
		d.Key = b.Kind + " " + b.Fingerprint
	}
	if n.Status.SSHKey != "" {
		d.SSHKey = authorizedFingerprint(n.Status.SSHKey)
	}
	g.event(ctx, eventReleased, fmt.Sprintf("asset-id %q of router %q released from its key: %s", n.AssetID, router, why), true, d)
}

// Remove deletes a router and everything known about it. Its tokens are invalid
// from then on.
func (g *Registry) Remove(ctx context.Context, router string) error {
	var gone []Node
	err := g.cfg.Store.Update(ctx, router, func(old *Router) (*Router, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		gone = old.Clone().Nodes
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("sco: removing router %.80q: %w", router, err)
	}
	g.lost(ctx, router, gone, "the router was removed")
	return nil
}

// Release forgets what an asset-id is bound to and which SSH key is pinned for
// it, so that a replacement part can be onboarded (RMA).
func (g *Registry) Release(ctx context.Context, router, assetID string) error {
	var was Node
	err := g.updateNode(ctx, router, assetID, func(_ *Router, n *Node) error {
		was = *n
		n.Status = Status{State: StateWaiting, Since: g.now()}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sco: releasing asset-id %.140q of router %.80q: %w", assetID, router, err)
	}
	g.released(ctx, router, &was, "an operator released it")
	return nil
}

// errUnchanged ends an update that has nothing to write.
var errUnchanged = errors.New("unchanged")

func (g *Registry) updateNode(ctx context.Context, router, assetID string, fn func(*Router, *Node) error) error {
	err := g.cfg.Store.Update(ctx, router, func(old *Router) (*Router, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		n := old.Node(assetID)
		if n == nil {
			return nil, fmt.Errorf("the router has no node with this asset-id: %w", ErrNotFound)
		}
		if err := fn(old, n); err != nil {
			return nil, err
		}
		return old, nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// Peer is a router's node as its SSH key identifies it.
type Peer struct {
	Router, Node, AssetID string
	// State is the node's state when it was looked up.
	State State
	// SSHKey is the fingerprint of the key that identified the peer, in
	// OpenSSH's "SHA256:..." form. With it a connection of a key that is not
	// the pinned one any more is not recorded; without, any pinned key will
	// do.
	SSHKey string
	// Since is when the connection was authenticated, by the Registry's
	// clock. [Registry.Lookup] leaves it zero, which means now. With it a
	// connection that is recorded late does not take the place of a newer
	// one to the same conductor node.
	Since time.Time
}

// holds tells whether the peer's key is the one that is pinned.
func (p *Peer) holds(n *Node) bool {
	return n.Status.SSHKey != "" && (p.SSHKey == "" || p.SSHKey == authorizedFingerprint(n.Status.SSHKey))
}

// Lookup finds the node whose pinned SSH key this is. A key that is not pinned,
// was released, or is of a router whose mode is disabled by now is
// [ErrUnknownKey].
func (g *Registry) Lookup(ctx context.Context, key ssh.PublicKey) (Peer, error) {
	r, err := g.cfg.Store.Get(ctx, SSHKey(key))
	if errors.Is(err, ErrNotFound) {
		return Peer{}, ErrUnknownKey
	}
	if err != nil {
		return Peer{}, fmt.Errorf("sco: looking up an SSH key: %w", err)
	}
	want := ssh.FingerprintSHA256(key)
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Status.SSHKey == "" || r.Mode == ModeDisabled {
			continue
		}
		if authorizedFingerprint(n.Status.SSHKey) == want {
			return Peer{Router: r.Name, Node: n.Name, AssetID: n.AssetID, State: n.Status.State, SSHKey: want}, nil
		}
	}
	return Peer{}, ErrUnknownKey
}

// Connected records that the peer's tunnel is up. The id that it returns names
// this connection for [Registry.Disconnected]. When the peer's key was released
// or replaced since it was looked up, the error wraps [ErrUnknownKey].
func (g *Registry) Connected(ctx context.Context, p Peer, remote string) (id string, err error) {
	id = rand.Text()
	since := p.Since.UTC().Truncate(time.Millisecond)
	if p.Since.IsZero() {
		since = g.now()
	}
	err = g.updateNode(ctx, p.Router, p.AssetID, func(_ *Router, n *Node) error {
		if !p.holds(n) {
			return ErrUnknownKey
		}
		g.advance(n, StateConnected)
		// The clocks of two conductor nodes cannot be compared, and a link
		// that is much newer comes from a clock that was set back.
		l := n.Status.Link
		if d := l.Since.Sub(since); l.Up && l.Conductor == g.cfg.Node && d > 0 && d < maxRecordDelay {
			return nil
		}
		n.Status.Link = Link{Up: true, Since: since, Remote: remote, Conductor: g.cfg.Node, ID: id}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("sco: recording the tunnel of asset-id %q: %w", p.AssetID, err)
	}
	g.event(ctx, eventConnected, fmt.Sprintf("tunnel of asset-id %q is up", p.AssetID), true,
		eventDetail{Router: p.Router, AssetID: p.AssetID, Remote: remote})
	return id, nil
}

// Initialized records that the conductor has initialized the peer. When the
// peer's key was released or replaced since it was looked up, the error wraps
// [ErrUnknownKey].
func (g *Registry) Initialized(ctx context.Context, p Peer) error {
	err := g.updateNode(ctx, p.Router, p.AssetID, func(_ *Router, n *Node) error {
		if p.SSHKey != "" && !p.holds(n) {
			return ErrUnknownKey
		}
		if n.Status.State < StateConnected {
			return fmt.Errorf("the node is %s, it has to be connected first", n.Status.State)
		}
		if n.Status.State == StateInitialized {
			return errUnchanged
		}
		g.advance(n, StateInitialized)
		return nil
	})
	if err != nil {
		return fmt.Errorf("sco: recording the initialization of asset-id %q: %w", p.AssetID, err)
	}
	return nil
}

// Disconnected records that the connection id has ended. When the peer has
// connected anew meanwhile, here or to another conductor node, the record of
// that stays. The node's state stays as well: it only moves forward.
func (g *Registry) Disconnected(ctx context.Context, p Peer, id, reason string) error {
	err := g.updateNode(ctx, p.Router, p.AssetID, func(_ *Router, n *Node) error {
		if n.Status.Link.ID != id {
			return errUnchanged
		}
		n.Status.Link = Link{Since: g.now()}
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("sco: recording the end of the tunnel of asset-id %q: %w", p.AssetID, err)
	}
	g.event(ctx, eventDisconnected, fmt.Sprintf("tunnel of asset-id %q has ended: %.200s", p.AssetID, reason), true,
		eventDetail{Router: p.Router, AssetID: p.AssetID})
	return nil
}

// ResetLinks marks as down the tunnels that this conductor node held when it
// died. It is called once, before tunnels are served.
func (g *Registry) ResetLinks(ctx context.Context) error {
	type held struct{ router, asset, id string }
	var all []held
	err := g.List(ctx, func(r *Router) bool {
		for _, n := range r.Nodes {
			if l := n.Status.Link; l.Up && l.Conductor == g.cfg.Node {
				all = append(all, held{r.Name, n.AssetID, l.ID})
			}
		}
		return true
	})
	for _, h := range all {
		if err == nil {
			err = g.Disconnected(ctx, Peer{Router: h.router, AssetID: h.asset}, h.id, "the conductor was restarted")
		}
	}
	return err
}

// advance moves a node's state forward, never back.
func (g *Registry) advance(n *Node, to State) {
	if n.Status.State < to {
		n.Status.State, n.Status.Since = to, g.now()
	}
}

// LegacyAllowed tells whether the product's old way of onboarding may be used
// for an asset-id: only while it belongs to a router whose mode is disabled.
// reason says why not.
func (g *Registry) LegacyAllowed(ctx context.Context, assetID string) (allowed bool, reason string, err error) {
	r, err := g.cfg.Store.Get(ctx, AssetKey(assetID))
	if errors.Is(err, ErrNotFound) {
		return false, fmt.Sprintf("no router has the asset-id %.140q", assetID), nil
	}
	if err != nil {
		return false, "", fmt.Errorf("sco: asset-id %.140q: %w", assetID, err)
	}
	if r.Mode != ModeDisabled {
		return false, fmt.Sprintf("router %q uses secure conductor onboarding, its mode is %s", r.Name, r.Mode), nil
	}
	return true, "", nil
}

// LegacyPorts tells whether the ports of the old way, 4505 and 4506, must be
// open now: only while some router's mode is disabled. It reads the store until
// it finds one.
func (g *Registry) LegacyPorts(ctx context.Context) (open bool, err error) {
	err = g.List(ctx, func(r *Router) bool {
		open = r.Mode == ModeDisabled
		return !open
	})
	return open, err
}
