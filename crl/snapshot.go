package crl

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"slices"
	"time"

	"github.com/mooringlib/mooring/crl/internal/dist"
	"github.com/mooringlib/mooring/crl/internal/list"
	"github.com/mooringlib/mooring/crl/internal/master"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/crl/internal/trust"
)

// snapshot is a master list with what answering needs, worked out once. It is
// immutable.
type snapshot struct {
	file     *master.File
	pool     *trust.Pool
	lists    []listView
	byIssuer map[name.Key][]int // complete lists
	deltas   map[string][]int   // by base line
}

// listView is what the metadata of a list says, decoded.
type listView struct {
	position int
	meta     *master.Meta
	scope    dist.Scope
	number   *big.Int
	base     *big.Int
	this     time.Time
	next     time.Time
	signer   *trust.Node // nil when it is no longer trusted
}

// lineOf names the line of lists within which numbers go up: one issuer, one
// key, one scope.
func lineOf(issuer name.Key, signer *trust.Node, scope []byte, delta bool) string {
	h := sha256.New()
	h.Write([]byte("mooring crl line\x00"))
	h.Write(issuer[:])
	key := sha256.Sum256(signer.Cert.RawSubjectPublicKeyInfo)
	h.Write(key[:])
	if delta {
		h.Write([]byte{1})
	}
	h.Write(scope)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// metaOf describes a verified list.
func metaOf(v *list.Verified, signer *trust.Node, issuer name.Key) master.Meta {
	m := master.Meta{
		ID:         hex.EncodeToString(v.ID[:]),
		Line:       lineOf(issuer, signer, v.ScopeDER, v.Delta()),
		Issuer:     v.Issuer,
		ThisUpdate: v.ThisUpdate.Unix(),
		KeyID:      v.KeyID,
		Scope:      v.ScopeDER,
		Signer:     signer.ID,
		Size:       v.Size,
		Entries:    v.Count,
		Warnings:   v.Warnings,
	}
	if v.Number != nil {
		m.Number = v.Number.String()
	}
	if v.Base != nil {
		m.Base = v.Base.String()
	}
	if !v.NextUpdate.IsZero() {
		m.NextUpdate = v.NextUpdate.Unix()
	}
	if !v.ExpiredSince.IsZero() {
		m.ExpiredSince = v.ExpiredSince.Unix()
	}
	for _, p := range v.Freshest {
		m.Freshest = append(m.Freshest, p.URIs...)
	}
	return m
}

func number(s string) *big.Int {
	if s == "" {
		return nil
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil
	}
	return n
}

func newSnapshot(f *master.File, pool *trust.Pool) *snapshot {
	s := &snapshot{file: f, pool: pool, byIssuer: make(map[name.Key][]int), deltas: make(map[string][]int)}
	if f == nil {
		return s
	}
	s.lists = make([]listView, len(f.Lists))
	for i := range f.Lists {
		m := &f.Lists[i]
		v := listView{position: i, meta: m, number: number(m.Number), base: number(m.Base), this: time.Unix(m.ThisUpdate, 0)}
		v.scope.Reasons = dist.AllReasons
		v.next = v.this.Add(maxAge)
		if m.NextUpdate != 0 {
			v.next = time.Unix(m.NextUpdate, 0)
		}
		key, err := name.KeyOf(m.Issuer)
		if err == nil && m.Scope != nil {
			v.scope, err = dist.ParseScope(m.Scope)
		}
		// A signer that is not configured any more, or another one with the
		// same certificate identity, takes the list out of force.
		if n := pool.Lookup(m.Signer); err == nil && n != nil && n.Trusted() && n.Subject == key {
			v.signer = n
		}
		s.lists[i] = v
		if v.signer == nil {
			continue
		}
		if v.base == nil {
			s.byIssuer[key] = append(s.byIssuer[key], i)
		} else {
			complete := lineOf(key, v.signer, m.Scope, false)
			s.deltas[complete] = append(s.deltas[complete], i)
		}
	}
	return s
}

// deltaFor returns the delta list that continues a complete list, nil when
// there is none (RFC 5280 section 5.2.4): same issuer, key and scope, based on
// this list or an earlier one, and newer than it.
func (s *snapshot) deltaFor(l *listView) *listView {
	var best *listView
	for _, i := range s.deltas[l.meta.Line] {
		d := &s.lists[i]
		if l.number == nil || d.number == nil || d.base.Cmp(l.number) > 0 || d.number.Cmp(l.number) <= 0 {
			continue
		}
		if best == nil || d.number.Cmp(best.number) > 0 {
			best = d
		}
	}
	return best
}

// fresh reports whether the list may be taken as today's, or why not.
func (l *listView) fresh(now time.Time) (bool, string) {
	switch {
	case now.Before(l.this.Add(-clockSkew)):
		return false, "the clock is behind the date of the list"
	case now.After(l.next):
		return false, "the list was due to be replaced at " + l.next.UTC().Format(time.RFC3339)
	case !l.signer.ValidAt(now):
		return false, "the certificate of the list's signer, or one above it, is not valid now"
	}
	return true, ""
}

// held returns the list in force of a line, nil when there is none.
func (s *snapshot) held(line string) *listView {
	i := slices.IndexFunc(s.lists, func(l listView) bool { return l.meta.Line == line })
	if i < 0 {
		return nil
	}
	return &s.lists[i]
}
