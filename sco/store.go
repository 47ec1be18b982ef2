package sco

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Key is what a router can be found by. Stores treat it as an opaque string of
// at most 256 bytes.
type Key string

// NameKey finds a router by its name.
func NameKey(router string) Key { return Key("name/" + router) }

// AssetKey finds the router that has a node with the asset-id.
func AssetKey(assetID string) Key { return Key("asset/" + assetID) }

// SSHKey finds the router that has a node with the pinned SSH key.
func SSHKey(key ssh.PublicKey) Key { return Key("ssh/" + ssh.FingerprintSHA256(key)) }

// Keys returns every key that the router is found by. A store keeps them in
// step with the record: no two routers share one.
func (r *Router) Keys() []Key {
	keys := []Key{NameKey(r.Name)}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.AssetID != "" {
			keys = append(keys, AssetKey(n.AssetID))
		}
		if fp := authorizedFingerprint(n.Status.SSHKey); fp != "" {
			keys = append(keys, Key("ssh/"+fp))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// authorizedFingerprint is ssh.FingerprintSHA256 of a key in the authorized_keys
// form, without taking the key apart.
func authorizedFingerprint(s string) string {
	_, enc, _ := strings.Cut(s, " ")
	enc, _, _ = strings.Cut(enc, " ")
	b, err := base64.StdEncoding.DecodeString(enc)
	if err != nil || len(b) == 0 {
		return ""
	}
	sum := sha256.Sum256(b)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

var (
	// ErrNotFound: no router has this key.
	ErrNotFound = errors.New("sco: no such router")
	// ErrKeyTaken: another router already has one of the record's keys.
	ErrKeyTaken = errors.New("sco: name, asset-id or SSH key belongs to another router")
)

// RouterStore keeps the routers. Several conductor nodes may share one store.
// Package scotest holds the conformance kit.
//
// Implementations are safe for concurrent use, by several processes where the
// data can be reached by several. When a call returns nil its effect is durable.
// The router returned or handed over is the callee's to keep: nobody else
// changes it afterwards. ctx bounds the call.
type RouterStore interface {
	// Get returns the router that has the key, or an error that wraps
	// [ErrNotFound].
	Get(ctx context.Context, key Key) (*Router, error)

	// Update changes one router atomically. fn gets the present record, or
	// nil when there is none, and returns the new one, or nil for none; it
	// may change the record that it gets and return it. The store writes
	// record and keys only if nobody changed the router in between, and
	// calls fn again if somebody did, so fn has no effects outside. An error
	// of fn ends the call, changes nothing, and is returned such that
	// errors.Is and errors.As find it. A key that another router has is an
	// error that wraps [ErrKeyTaken].
	Update(ctx context.Context, name string, fn func(*Router) (*Router, error)) error

	// List returns at most limit routers whose name comes after after in byte
	// order, sorted by it. An empty result means that there are no more.
	List(ctx context.Context, after string, limit int) ([]*Router, error)
}

// MemoryStore is a [RouterStore] that forgets everything with the process. The
// zero value is empty and ready for use.
type MemoryStore struct {
	mu      sync.RWMutex
	routers map[string]*Router
	keys    map[Key]string
}

// Get implements [RouterStore].
func (m *MemoryStore) Get(ctx context.Context, key Key) (*Router, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	r := m.routers[m.keys[key]]
	if r == nil {
		return nil, ErrNotFound
	}
	return r.Clone(), nil
}

// Update implements [RouterStore].
func (m *MemoryStore) Update(ctx context.Context, name string, fn func(*Router) (*Router, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var old *Router
	if r := m.routers[name]; r != nil {
		old = r.Clone()
	}
	r, err := fn(old)
	if err != nil {
		return err
	}
	if r == nil {
		m.drop(name)
		return nil
	}
	if r.Name != name {
		return fmt.Errorf("sco: update of router %q returned router %q", name, r.Name)
	}
	r = r.Clone()
	keys := r.Keys()
	for _, k := range keys {
		if holder, ok := m.keys[k]; ok && holder != name {
			return fmt.Errorf("%w: %q is of router %q", ErrKeyTaken, string(k), holder)
		}
	}
	m.drop(name)
	if m.routers == nil {
		m.routers, m.keys = map[string]*Router{}, map[Key]string{}
	}
	m.routers[name] = r
	for _, k := range keys {
		m.keys[k] = name
	}
	return nil
}

func (m *MemoryStore) drop(name string) {
	if r := m.routers[name]; r != nil {
		for _, k := range r.Keys() {
			delete(m.keys, k)
		}
		delete(m.routers, name)
	}
}

// List implements [RouterStore].
func (m *MemoryStore) List(ctx context.Context, after string, limit int) ([]*Router, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	names := make([]string, 0, len(m.routers))
	for name := range m.routers {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out := make([]*Router, 0, min(limit, len(names)))
	for _, name := range names[:min(max(limit, 0), len(names))] {
		out = append(out, m.routers[name].Clone())
	}
	return out, nil
}
