// Package trust knows the certificates of authorities, which of them lead to a
// configured trust anchor, and which may have signed a revocation list.
package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/mooringlib/mooring/crl/internal/name"
)

const maxDepth = 10

// Node is one certificate.
type Node struct {
	Cert *x509.Certificate
	// ID is SHA-256 of the certificate in hexadecimal.
	ID string
	// Subject and Issuer are the keys of the names.
	Subject, Issuer name.Key
	// Anchor is set for configured trust anchors.
	Anchor bool
	// From and Until bound the time in which a path to an anchor holds.
	From, Until time.Time

	anchors map[string]bool
	parents []*Node
}

// Pool is an immutable set of certificates, safe for concurrent use.
type Pool struct {
	nodes     []*Node
	bySubject map[name.Key][]*Node
	byID      map[string]*Node
}

// NewPool makes a pool of trust anchors and of certificates that count only as
// far as they lead to an anchor.
func NewPool(anchors, others []*x509.Certificate) *Pool {
	p := &Pool{bySubject: make(map[name.Key][]*Node), byID: make(map[string]*Node)}
	for _, c := range anchors {
		p.add(c, true)
	}
	for _, c := range others {
		p.add(c, false)
	}
	for _, n := range p.nodes {
		n.parents = p.parentsOf(n)
	}
	for _, n := range p.nodes {
		p.resolve(n)
	}
	return p
}

// ID returns the identity of a certificate.
func ID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func (p *Pool) add(c *x509.Certificate, anchor bool) {
	n := newNode(c, anchor)
	if n == nil || p.byID[n.ID] != nil {
		return
	}
	p.nodes = append(p.nodes, n)
	p.byID[n.ID] = n
	p.bySubject[n.Subject] = append(p.bySubject[n.Subject], n)
}

func newNode(c *x509.Certificate, anchor bool) *Node {
	n := &Node{Cert: c, ID: ID(c), Anchor: anchor}
	var err error
	if n.Subject, err = name.KeyOf(c.RawSubject); err != nil {
		return nil
	}
	if n.Issuer, err = name.KeyOf(c.RawIssuer); err != nil {
		return nil
	}
	return n
}

// isCA reports whether a certificate may issue others. A version 1 certificate
// can't say so and is believed only as an anchor.
func (n *Node) isCA() bool {
	c := n.Cert
	if n.Anchor && c.Version < 3 {
		return true
	}
	return c.BasicConstraintsValid && c.IsCA
}

// maySignCertificates and maySignLists are RFC 5280 section 4.2.1.3.
func (n *Node) maySignCertificates() bool {
	return n.isCA() && (n.Cert.KeyUsage == 0 || n.Cert.KeyUsage&x509.KeyUsageCertSign != 0)
}

func (n *Node) maySignLists() bool {
	if n.Cert.KeyUsage&x509.KeyUsageCRLSign != 0 {
		return true
	}
	return n.isCA() && n.Cert.KeyUsage == 0
}

func (p *Pool) parentsOf(n *Node) []*Node {
	var out []*Node
	for _, up := range p.bySubject[n.Issuer] {
		if up == n || !up.maySignCertificates() || !keyMatch(n.Cert.AuthorityKeyId, up.Cert.SubjectKeyId) {
			continue
		}
		if up.Cert.CheckSignature(n.Cert.SignatureAlgorithm, n.Cert.RawTBSCertificate, n.Cert.Signature) == nil {
			out = append(out, up)
		}
	}
	return out
}

// keyMatch compares key identifiers that may be absent.
func keyMatch(authority, subject []byte) bool {
	return len(authority) == 0 || len(subject) == 0 || bytes.Equal(authority, subject)
}

// resolve finds the anchors that a node leads to and how long it does.
func (p *Pool) resolve(n *Node) {
	n.anchors = make(map[string]bool)
	var climb func(at *Node, from, until time.Time, seen []*Node)
	climb = func(at *Node, from, until time.Time, seen []*Node) {
		if len(seen) == maxDepth {
			return
		}
		for _, s := range seen {
			if s == at {
				return
			}
		}
		if at.Cert.NotBefore.After(from) {
			from = at.Cert.NotBefore
		}
		if at.Cert.NotAfter.Before(until) {
			until = at.Cert.NotAfter
		}
		if at.Anchor {
			n.anchors[at.ID] = true
			if until.After(n.Until) {
				n.From, n.Until = from, until
			}
		}
		for _, up := range at.parents {
			climb(up, from, until, append(seen[:len(seen):len(seen)], at))
		}
	}
	climb(n, n.Cert.NotBefore, n.Cert.NotAfter, nil)
}

// Trusted reports whether the node leads to an anchor.
func (n *Node) Trusted() bool { return len(n.anchors) > 0 }

// ValidAt reports whether a path to an anchor holds at a time.
func (n *Node) ValidAt(t time.Time) bool {
	return n.Trusted() && !t.Before(n.From) && !t.After(n.Until)
}

// SharesAnchor reports whether two nodes lead to the same anchor.
func (n *Node) SharesAnchor(m *Node) bool {
	for a := range n.anchors {
		if m.anchors[a] {
			return true
		}
	}
	return false
}

// Parents returns the issuers of a node, without itself.
func (n *Node) Parents() []*Node { return n.parents }

// Lookup returns the node with an identity, nil when there is none.
func (p *Pool) Lookup(id string) *Node { return p.byID[id] }

// Node returns the node of a certificate. One that is not in the pool gets a
// node of its own, with the anchors that the pool leads it to.
func (p *Pool) Node(c *x509.Certificate) *Node {
	if n := p.byID[ID(c)]; n != nil {
		return n
	}
	n := newNode(c, false)
	if n == nil {
		return nil
	}
	n.parents = p.parentsOf(n)
	p.resolve(n)
	return n
}

// Issuers returns the nodes whose key signed a certificate.
func (p *Pool) Issuers(c *x509.Certificate) []*Node {
	n := newNode(c, false)
	if n == nil {
		return nil
	}
	out := p.parentsOf(n)
	if self := p.byID[n.ID]; self != nil && self.Subject == self.Issuer && self.Anchor {
		out = append(out, self)
	}
	return out
}

// Signers returns the certificates that may have signed a list with an issuer
// name and a key identifier, and why others with that name may not.
func (p *Pool) Signers(issuer name.Key, keyID []byte, now time.Time) (out []*Node, why string) {
	why = "no configured authority has the name of the list's issuer"
	for _, n := range p.bySubject[issuer] {
		switch {
		case !keyMatch(keyID, n.Cert.SubjectKeyId):
			why = "the key identifier of the list fits no configured authority of that name"
		case !n.maySignLists():
			why = "the issuer's certificate does not allow it to sign lists"
		case !n.Trusted():
			why = "the issuer's certificate leads to no configured trust anchor"
		case !n.ValidAt(now):
			why = "the issuer's certificate, or one above it, is not valid at this time"
		default:
			out = append(out, n)
		}
	}
	return out, why
}
