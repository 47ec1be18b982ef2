package trust_test

import (
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/name"
	"github.com/mooringlib/mooring/crl/internal/trust"
)

func TestPathsLeadToAnchors(t *testing.T) {
	root := crltest.NewCA(t, "root", crltest.Options{})
	mid := crltest.NewCA(t, "mid", crltest.Options{Parent: root})
	low := crltest.NewCA(t, "low", crltest.Options{Parent: mid, NotAfter: crltest.Now.AddDate(0, 1, 0)})
	user := crltest.NewCA(t, "user", crltest.Options{Parent: mid, NotCA: true})
	below := crltest.NewCA(t, "below a user", crltest.Options{Parent: user})
	stranger := crltest.NewCA(t, "stranger", crltest.Options{})
	imposter := crltest.NewCA(t, "mid", crltest.Options{})
	p := trust.NewPool([]*x509.Certificate{root.Cert}, []*x509.Certificate{mid.Cert, low.Cert, user.Cert, below.Cert, stranger.Cert, imposter.Cert})
	node := func(c *crltest.CA) *trust.Node { return p.Lookup(trust.ID(c.Cert)) }
	for _, c := range []*crltest.CA{root, mid, low, user} {
		require.True(t, node(c).Trusted(), c.Cert.Subject.String())
		require.True(t, node(c).SharesAnchor(node(root)))
	}
	for _, c := range []*crltest.CA{below, stranger, imposter} {
		require.False(t, node(c).Trusted(), c.Cert.Subject.String())
		require.False(t, node(c).ValidAt(crltest.Now))
	}
	require.True(t, node(low).ValidAt(crltest.Now))
	require.False(t, node(low).ValidAt(crltest.Now.AddDate(0, 2, 0)))
	require.False(t, node(low).ValidAt(crltest.Now.AddDate(-2, 0, 0)))

	leaf := low.Leaf(t, "leaf")
	require.Len(t, p.Issuers(leaf), 1)
	require.True(t, p.Node(leaf).Trusted(), "a certificate that is not in the pool")
	require.Empty(t, p.Issuers(crltest.NewCA(t, "low", crltest.Options{}).Leaf(t, "forged")))

	signers := func(c *crltest.CA, keyID []byte) ([]*trust.Node, string) {
		key, err := name.KeyOf(c.Cert.RawSubject)
		require.NoError(t, err)
		return p.Signers(key, keyID, crltest.Now)
	}
	out, _ := signers(mid, nil)
	require.Len(t, out, 1, "the imposter of the same name leads nowhere")
	_, why := signers(mid, []byte{1, 2, 3})
	require.Contains(t, why, "key identifier")
	_, why = signers(user, nil)
	require.Contains(t, why, "does not allow")
	_, why = signers(stranger, nil)
	require.Contains(t, why, "no configured trust anchor")
	_, why = signers(crltest.NewCA(t, "nobody", crltest.Options{}), nil)
	require.Contains(t, why, "no configured authority")
}

func TestCyclesEnd(t *testing.T) {
	a := crltest.NewCA(t, "a", crltest.Options{})
	b := crltest.NewCA(t, "b", crltest.Options{})
	// Two authorities that certify each other.
	ab := crltest.NewCA(t, "b", crltest.Options{Parent: a, Key: b.Key})
	ba := crltest.NewCA(t, "a", crltest.Options{Parent: b, Key: a.Key})
	p := trust.NewPool([]*x509.Certificate{a.Cert}, []*x509.Certificate{ab.Cert, ba.Cert})
	require.True(t, p.Lookup(trust.ID(ab.Cert)).Trusted())
	require.True(t, p.Lookup(trust.ID(ba.Cert)).Trusted())
}
