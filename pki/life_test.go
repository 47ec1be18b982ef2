package pki_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/internal/testca"
	"github.com/mooringlib/mooring/pki/keystore"
	"github.com/mooringlib/mooring/pki/verify"
)

// TestReplaceEachStop crashes at every step of ingesting a certificate for a new
// key, and looks at the files as any other program would.
func TestReplaceEachStop(t *testing.T) {
	t.Parallel()
	type state struct {
		b          *bench
		key1, key2 string
		old, new   string
		text       []byte
	}
	durabletest.EachStop(t,
		func(t *testing.T) *state {
			s := &state{b: newBench(t)}
			s.old = string(testca.PEM(s.b.provision(t, "n")))
			require.NoError(t, s.b.m.CreateKey(t.Context(), pki.KeyRequest{Name: "n", Algorithm: "ECC", Replace: true}))
			s.key1, _ = s.b.files(t, "n")
			k, err := os.ReadFile(filepath.Join(s.b.dir, "n.key.new"))
			require.NoError(t, err)
			s.key2 = string(k)
			s.text = testca.PEM(s.b.ca.Sign(t, s.b.csr(t, "n")))
			s.new = string(s.text)
			s.b.reauths = nil
			return s
		},
		func(s *state, w durable.Writer) error {
			s.b.m.SetWriter(w)
			_, err := s.b.m.Ingest(context.Background(), "n", s.text)
			return err
		},
		func(t *testing.T, s *state, done bool) {
			key, cert := s.b.files(t, "n")
			isNew := key == s.key2 && cert == s.new
			require.True(t, isNew || key == s.key1 && cert == s.old, "a mix")
			if done {
				require.True(t, isNew)
				require.Equal(t, []string{"n"}, s.b.reauths)
			} else {
				require.Empty(t, s.b.reauths)
			}
			// After the crash a new process has the same pair, and can go on.
			s.b.open(t)
			pair, err := s.b.m.GetCertificate("n")(nil)
			require.NoError(t, err)
			require.Equal(t, cert, string(testca.PEM(pair.Leaf)))
			if !isNew {
				_, err := s.b.m.Ingest(t.Context(), "n", s.text)
				require.NoError(t, err)
			}
			require.Equal(t, pki.StateValid, s.b.status(t, "n").State)
		})
}

// TestCreateEachStop crashes while making a key, a bundle and a first
// certificate.
func TestCreateEachStop(t *testing.T) {
	t.Parallel()
	durabletest.EachStop(t,
		func(t *testing.T) *bench { return newBench(t) },
		func(b *bench, w durable.Writer) error {
			b.m.SetWriter(w)
			if err := b.m.CreateKey(context.Background(), pki.KeyRequest{Name: "n", Algorithm: "ECC"}); err != nil {
				return err
			}
			_, err := b.m.AddTrust(context.Background(), "second", testca.PEM(b.ca.Cert), pki.Strict)
			return err
		},
		func(t *testing.T, b *bench, _ bool) {
			b.open(t)
			csr := b.csr(t, "n") // makes the key when the crash was before it
			_, err := b.m.Ingest(t.Context(), "n", testca.PEM(b.ca.Sign(t, csr)))
			require.NoError(t, err)
			for _, bundle := range b.m.Trusted() {
				require.Empty(t, bundle.Issues)
			}
		})
}

// TestYearsOfAlarms lets a certificate live and end, twice, in simulated time.
func TestYearsOfAlarms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := &bench{recorder: &recorder{}, dir: dir, ca: testca.Root(t, "root", begin)}
		b.open(t, func(c *pki.Config) {
			c.Now = time.Now
			c.CheckInterval = 12 * time.Hour
			c.Names = []string{"n", "absent"}
		})
		b.trust(t, "root", b.ca.Cert)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.m.Run(ctx) }()
		synctest.Wait()
		require.Equal(t, []string{"critical"}, b.history("pki.certificate/absent"))
		require.Equal(t, []string{"critical"}, b.history("pki.certificate/n"), "no certificate yet")

		const year = 365 * 24 * time.Hour
		first := b.ca.Sign(t, b.csr(t, "n"), func(t *x509.Certificate) { t.NotAfter = begin.Add(year) })
		_, err := b.m.Ingest(ctx, "n", testca.PEM(first))
		require.NoError(t, err)
		sleepTo := func(at time.Time) { time.Sleep(time.Until(at)); synctest.Wait() }
		sleepTo(begin.Add(year - 30*24*time.Hour - time.Minute))
		require.Equal(t, []string{"critical", "cleared"}, b.history("pki.certificate/n"))
		sleepTo(begin.Add(year - 30*24*time.Hour + time.Minute))
		require.Equal(t, []string{"critical", "cleared", "minor"}, b.history("pki.certificate/n"), "on the minute, not at the next interval")
		sleepTo(begin.Add(year - 7*24*time.Hour + time.Minute))
		sleepTo(begin.Add(year + time.Minute))
		require.Equal(t, []string{"critical", "cleared", "minor", "major", "critical"}, b.history("pki.certificate/n"))
		sleepTo(begin.Add(2 * year))
		require.Len(t, b.history("pki.certificate/n"), 5, "nothing is said twice in a year")
		require.Equal(t, uint64(1), b.m.Counters().CertificateExpired)

		second := b.ca.Sign(t, b.csr(t, "n"), func(t *x509.Certificate) { t.NotBefore, t.NotAfter = begin.Add(2*year-time.Hour), begin.Add(4*year) })
		_, err = b.m.Ingest(ctx, "n", testca.PEM(second))
		require.NoError(t, err)
		sleepTo(begin.Add(5 * year))
		require.Equal(t, []string{"critical", "cleared", "minor", "major", "critical", "cleared", "minor", "major", "critical"}, b.history("pki.certificate/n"))
		require.Len(t, b.history("pki.certificate/absent"), 1)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Empty(t, b.drops, "fail-soft only tells")
		// One alarm a certificate, and it keeps the time of its beginning.
		for _, a := range b.m.Alarms() {
			require.Equal(t, mooring.SeverityCritical, a.Severity)
		}
		require.Len(t, b.m.Alarms(), 2)
	})
}

// TestReplacedByHand puts files in place as an operator does.
func TestReplacedByHand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	old := b.provision(t, "n")
	b.reauths = nil
	get := b.m.GetCertificate("n")
	inUse := func() *x509.Certificate {
		pair, err := get(nil)
		require.NoError(t, err)
		return pair.Leaf
	}
	key, err := (keystore.Software{}).Generate(ctx, keystore.Spec{RSABits: 2048})
	require.NoError(t, err)
	signer, err := (keystore.Software{}).Open(ctx, key)
	require.NoError(t, err)
	fresh := b.ca.Leaf(t, "n", signer.Public())

	// Half-way through: the key is there, its certificate is not yet.
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, name), data, 0o600))
	}
	write("n.key", key)
	require.NoError(t, b.m.Sweep(ctx))
	require.True(t, inUse().Equal(old))
	require.Empty(t, b.reauths)
	require.Empty(t, b.m.Alarms(), "one look is no alarm")
	write("n.pem", testca.PEM(fresh))
	require.NoError(t, b.m.Sweep(ctx))
	require.True(t, inUse().Equal(fresh))
	require.Equal(t, []string{"n"}, b.reauths)
	e, d := b.lastEvent(t)
	require.Equal(t, "system.ingest_certificate", e.Type)
	require.Equal(t, "n", d["common_name"])
	for range 3 {
		require.NoError(t, b.m.Sweep(ctx))
	}
	require.Equal(t, []string{"n"}, b.reauths, "once")

	// A certificate that is refused is not used, and says so.
	foreign := testca.Root(t, "foreign", start).Leaf(t, "n", signer.Public())
	write("n.pem", testca.PEM(foreign))
	require.NoError(t, b.m.Sweep(ctx))
	require.True(t, inUse().Equal(fresh))
	require.Equal(t, []string{"critical"}, b.history("pki.certificate/n"))
	require.Equal(t, pki.StateInvalid, b.status(t, "n").State)

	// Files that never fit each other become an alarm at the second look.
	write("n.pem", testca.PEM(old))
	require.NoError(t, b.m.Sweep(ctx))
	require.NoError(t, b.m.Sweep(ctx))
	require.Contains(t, b.m.Alarms()[0].Text, "do not belong together")

	// Gone from disk: an alarm when it is configured; what is in use stays.
	require.NoError(t, os.Remove(filepath.Join(b.dir, "n.pem")))
	require.NoError(t, b.m.Sweep(ctx))
	require.True(t, inUse().Equal(fresh))
	require.Equal(t, pki.StateMissing, b.status(t, "n").State)

	write("n.pem", testca.PEM(fresh))
	require.NoError(t, b.m.Sweep(ctx))
	require.Empty(t, b.m.Alarms())
	require.Equal(t, []string{"n"}, b.reauths)
}

func TestTrustByHand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := testca.Root(t, "other", start)
	peer := other.Leaf(t, "peer", testca.ECKey(t).Public())
	verifyPeer := func() error {
		return b.m.VerifyPeer(t.Context(), []*x509.Certificate{peer}, pki.PeerOptions{})
	}
	require.Error(t, verifyPeer())
	path := filepath.Join(b.dir, "trust", "byhand.pem")
	require.NoError(t, os.WriteFile(path, testca.PEM(other.Cert), 0o600))
	require.NoError(t, b.m.Sweep(t.Context()))
	require.NoError(t, verifyPeer())
	require.NoError(t, os.WriteFile(path, []byte("damaged"), 0o600))
	require.NoError(t, b.m.Sweep(t.Context()))
	require.Error(t, verifyPeer(), "a damaged bundle trusts nobody")
	require.Equal(t, []string{"critical"}, b.history("pki.trust/byhand"))
	require.NoError(t, os.Remove(path))
	require.NoError(t, b.m.Sweep(t.Context()))
	require.Equal(t, []string{"critical", "cleared"}, b.history("pki.trust/byhand"))
}

func TestPeersUnderBothBehaviors(t *testing.T) {
	t.Parallel()
	for _, behavior := range []pki.Behavior{pki.FailSoft, pki.FailHard} {
		l := &lists{revoked: map[string]string{}, unknown: map[string]error{}}
		b := newBench(t, func(c *pki.Config) { c.Behavior = behavior; c.Revocation = l; c.Names = nil })
		other := testca.Root(t, "other", start)
		b.trust(t, "other", other.Cert)
		ctx := t.Context()
		good := b.ca.Leaf(t, "good", testca.ECKey(t).Public())
		short := b.ca.Leaf(t, "short", testca.ECKey(t).Public(), func(t *x509.Certificate) { t.NotAfter = start.Add(time.Hour) })
		foreign := other.Leaf(t, "foreign", testca.ECKey(t).Public())
		require.NoError(t, b.m.WatchPeer(ctx, pki.Peer{Name: "good", Certificates: []*x509.Certificate{good}, Trust: "root"}))
		require.NoError(t, b.m.WatchPeer(ctx, pki.Peer{Name: "short", Certificates: []*x509.Certificate{short}, Trust: "root"}))
		require.Empty(t, b.drops)
		require.Error(t, b.m.WatchPeer(ctx, pki.Peer{Name: "foreign", Certificates: []*x509.Certificate{foreign}, Trust: "root"}))
		own := b.provision(t, "own")

		b.now = start.Add(2 * time.Hour)
		l.revoked[good.SerialNumber.String()] = "keyCompromise"
		l.revoked[own.SerialNumber.String()] = "superseded"
		b.m.RevocationChanged()
		for range 3 {
			require.NoError(t, b.m.Sweep(ctx))
		}
		for _, id := range []string{"pki.peer/good", "pki.peer/short", "pki.peer/foreign", "pki.certificate/own"} {
			require.Equal(t, []string{"critical"}, b.history(id), id)
		}
		c := b.m.Counters()
		require.Equal(t, []uint64{1, 1, 1, 1}, []uint64{c.PeerRevoked, c.PeerExpired, c.PeerInvalid, c.CertificateRevoked})
		dropped := map[string]string{}
		for _, d := range b.drops {
			dropped[d.Peer+d.Certificate] = d.Reason
		}
		if behavior == pki.FailSoft {
			require.Empty(t, dropped)
		} else {
			require.Len(t, b.drops, 4, "each once")
			require.Contains(t, dropped["foreign"], `not in the bundle "root"`)
			require.Contains(t, dropped["good"], "keyCompromise")
			require.Contains(t, dropped["own"], "revoked")
			require.Contains(t, dropped["short"], "expired")
		}
		// A list that no longer names it clears the alarm.
		delete(l.revoked, good.SerialNumber.String())
		b.m.RevocationChanged()
		require.NoError(t, b.m.Sweep(ctx))
		require.Equal(t, []string{"critical", "cleared"}, b.history("pki.peer/good"))
		b.m.ForgetPeer(ctx, "foreign")
		require.Equal(t, []string{"critical", "cleared"}, b.history("pki.peer/foreign"))
	}
}

// TestRevocationGrace lets the source of revocation data fail for a while.
func TestRevocationGrace(t *testing.T) {
	t.Parallel()
	l := &lists{revoked: map[string]string{}, unknown: map[string]error{}}
	b := newBench(t, func(c *pki.Config) { c.Revocation = l; c.RevocationGrace = time.Hour; c.RevocationMaxAge = time.Minute })
	peer := b.ca.Leaf(t, "peer", testca.ECKey(t).Public())
	check := func() error {
		return b.m.VerifyPeer(t.Context(), []*x509.Certificate{peer}, pki.PeerOptions{})
	}
	l.unknown[peer.SerialNumber.String()] = errors.New("list is stale")
	require.True(t, failure(t, check()).Has(verify.RevocationUnknown), "never known to be good")
	delete(l.unknown, peer.SerialNumber.String())
	b.now = start.Add(time.Minute)
	require.NoError(t, check())
	l.unknown[peer.SerialNumber.String()] = errors.New("list is stale")
	b.now = start.Add(31 * time.Minute)
	require.NoError(t, check(), "within the grace")
	b.now = start.Add(62 * time.Minute)
	require.ErrorContains(t, check(), "list is stale")
	b.now = start.Add(-time.Minute)
	require.Error(t, check(), "a clock that went back is no grace")
}

// counting counts how often it is asked and tells when its data changes.
type counting struct {
	lists
	asked int
	gen   uint64
}

func (c *counting) CheckRevocation(ctx context.Context, cert, issuer *x509.Certificate) (bool, string, time.Time, error) {
	c.asked++
	return c.lists.CheckRevocation(ctx, cert, issuer)
}

func (c *counting) RevocationGeneration() uint64 { return c.gen }

func TestPeerCache(t *testing.T) {
	t.Parallel()
	l := &counting{lists: lists{revoked: map[string]string{}}}
	b := newBench(t, func(c *pki.Config) { c.Revocation = l })
	peer := b.ca.Leaf(t, "peer", testca.ECKey(t).Public(), func(t *x509.Certificate) { t.NotAfter = start.Add(3 * time.Minute) })
	asked := func() (int, error) {
		before := l.asked
		err := b.m.VerifyPeer(t.Context(), []*x509.Certificate{peer}, pki.PeerOptions{})
		return l.asked - before, err
	}
	step := func(what string, want int, fails bool) {
		t.Helper()
		n, err := asked()
		require.Equal(t, want, n, what)
		require.Equal(t, fails, err != nil, "%s: %v", what, err)
	}
	step("first", 1, false)
	step("remembered", 0, false)
	l.revoked[peer.SerialNumber.String()] = "x"
	step("nothing says that it changed", 0, false)
	l.gen++
	step("the list says so", 1, true)
	delete(l.revoked, peer.SerialNumber.String())
	b.m.RevocationChanged()
	step("the product says so", 1, false)
	b.trust(t, "other", testca.Root(t, "o", start).Cert)
	step("trust changed", 1, false)
	require.NoError(t, b.m.RemoveTrust(t.Context(), "root"))
	step("trust is gone", 0, true)
	b.trust(t, "root", b.ca.Cert)
	step("trust is back", 1, false)
	b.now = start.Add(2 * time.Minute)
	step("later", 0, false)
	b.now = start.Add(4 * time.Minute)
	step("expired", 0, true)
	b.now = start.Add(-24 * time.Hour)
	step("the clock went back before the beginning", 0, true)
	b.now = start.Add(time.Minute)
	step("and forth", 1, false)
}

// authority is an enroller that a test commands.
type authority struct {
	b     *bench
	fails int
	mu    sync.Mutex
	made  []time.Time
}

func (a *authority) call() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made = append(a.made, time.Now())
	return len(a.made)
}

func (a *authority) calls() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.made)
}

func (a *authority) Renew(_ context.Context, r pki.Renewal) ([]*x509.Certificate, error) {
	if a.call() <= a.fails {
		return nil, errors.New("authority does not answer")
	}
	csr, err := x509.ParseCertificateRequest(r.Request)
	if err != nil {
		return nil, err
	}
	if string(csr.RawSubject) != string(r.Certificate[0].RawSubject) || fmt.Sprint(csr.DNSNames) != fmt.Sprint(r.Certificate[0].DNSNames) || csr.CheckSignature() != nil {
		return nil, errors.New("another request was expected")
	}
	ca := *a.b.ca
	ca.Now = time.Now()
	t := testingT{}
	return []*x509.Certificate{ca.Leaf(t, "n", csr.PublicKey)}, nil
}

// testingT lets helpers be used where no test is at hand: they panic.
type testingT struct{ testing.TB }

func (testingT) Helper()           {}
func (testingT) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func TestRenewalAheadOfTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := &bench{recorder: &recorder{}, dir: dir, ca: testca.Root(t, "root", begin)}
		a := &authority{b: b, fails: 3}
		b.open(t, func(c *pki.Config) { c.Now = time.Now; c.CheckInterval = time.Hour; c.Enroller = a })
		b.trust(t, "root", b.ca.Cert)
		first := b.provision(t, "n")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.m.Run(ctx) }()
		life := first.NotAfter.Sub(first.NotBefore)
		time.Sleep(life / 2)
		synctest.Wait()
		require.Empty(t, a.calls())
		time.Sleep(life/3 + life/30)
		synctest.Wait()
		require.GreaterOrEqual(t, len(a.calls()), 4)
		left := first.NotAfter.Sub(a.calls()[0])
		require.InDelta(t, life.Hours()/3, left.Hours(), life.Hours()/20)
		require.Equal(t, []string{"minor", "cleared"}, b.history("pki.renewal/n"), "one alarm for all failures")
		require.Empty(t, b.history("pki.certificate/n"), "renewed before anybody is alarmed")
		pair, err := b.m.GetClientCertificate("n")(nil)
		require.NoError(t, err)
		require.False(t, pairEqual(pair.Leaf, first), "a new key")
		cancel()
		<-done
		require.Equal(t, []string{"n", "n"}, b.reauths)
	})
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	text, err := (keystore.Software{}).Generate(t.Context(), keystore.Spec{RSABits: 2048})
	require.NoError(t, err)
	key, err := (keystore.Software{}).Open(t.Context(), text)
	require.NoError(t, err)
	printed := fmt.Sprintf("%v %+v %#v %s %d %x", key, key, key, key, key, key)
	require.Equal(t, strings.Repeat("private key ", 5)+"private key", printed)
	_, err = x509.MarshalPKCS8PrivateKey(key)
	require.Error(t, err)
}
