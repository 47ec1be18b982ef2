package crl_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

func TestDistributionPointsAreLearnedAndForgotten(t *testing.T) {
	w := newWorld(t)
	url := w.url
	w.cfg.URLs = nil
	leaf := w.ca.Leaf(t, "leaf", "ldap://host/cn=x", url)
	w.start()
	w.list(crltest.List{Entries: []crltest.Entry{entry(leaf, 1)}})
	w.m.Learn(t.Context(), leaf)
	require.ErrorContains(t, w.fetch(), "private, loopback", "certificates can't make us call anybody")
	require.Contains(t, w.onlyAlarm(), url)
	w.m.Forget(t.Context(), leaf)
	require.NoError(t, w.fetch())
	require.NoError(t, w.m.Import(t.Context(), readerOf(w.ca.Sign(t, crltest.List{})), "x"))
	w.noAlarm()

	w.cfg.AllowPrivate = true
	w.start()
	w.m.Learn(t.Context(), leaf)
	w.list(crltest.List{Number: 2, Entries: []crltest.Entry{entry(leaf, 1)}})
	require.NoError(t, w.fetch())
	require.Equal(t, crl.StatusRevoked, w.status(leaf))
	require.Equal(t, []string{"leaf keyCompromise"}, w.revoked)

	// An address that is configured as well is not guarded.
	w = newWorld(t)
	w.start()
	w.list(crltest.List{})
	w.m.Learn(t.Context(), w.ca.Leaf(t, "leaf", w.url))
	require.NoError(t, w.fetch())
}

func TestMirrorsAreTriedInTurn(t *testing.T) {
	w := newWorld(t)
	w.cfg.AllowPrivate, w.cfg.URLs = true, nil
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dead := "http://" + l.Addr().String() + "/x.crl"
	require.NoError(t, l.Close())
	// One distribution point with two addresses.
	names := append(append([]byte{0x86, byte(len(dead))}, dead...), append([]byte{0x86, byte(len(w.url))}, w.url...)...)
	wrap := func(tag byte, b []byte) []byte { return append([]byte{tag, byte(len(b))}, b...) }
	value := wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa0, names))))
	leaf := crltest.NewCA(t, "leaf", crltest.Options{Parent: w.ca, NotCA: true, Extra: []pkixExtension{{Id: []int{2, 5, 29, 31}, Value: value}}}).Cert
	w.cfg.Certificates = []*x509.Certificate{leaf}
	w.start()
	w.list(crltest.List{})
	require.NoError(t, w.fetch())
	require.Equal(t, crl.StatusGood, w.status(leaf))
	require.Equal(t, w.url, w.m.Lists()[0].Source)
}

func TestOneFetchAtATime(t *testing.T) {
	w := newWorld(t)
	w.start()
	der := w.ca.Sign(t, crltest.List{})
	var active, most, calls atomic.Int32
	started, release := make(chan struct{}, 10), make(chan struct{})
	w.serve(func(rw http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		most.Store(max(most.Load(), active.Add(1)))
		started <- struct{}{}
		<-release
		_, _ = rw.Write(der)
		active.Add(-1)
	})
	done := make(chan error, 3)
	go func() { done <- w.fetch() }()
	<-started
	for range 2 {
		go func() { done <- w.fetch() }()
	}
	close(release)
	for range 3 {
		require.NoError(t, <-done)
	}
	require.EqualValues(t, 1, most.Load())
}

func TestSlowServerHoldsUpNobody(t *testing.T) {
	slow := newWorld(t)
	slow.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w := newWorld(t)
	w.list(crltest.List{})
	for i := range 10 {
		w.cfg.URLs = append([]string{slow.url + string(rune('a'+i))}, w.cfg.URLs...)
	}
	m := w.start()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	cert := w.ca.Leaf(t, "x")
	require.Eventually(t, func() bool { return w.status(cert) == crl.StatusGood }, time.Minute, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestSchedule(t *testing.T) {
	w := newWorld(t)
	path := t.TempDir() + "/ca.crl"
	writeFile(t, path, w.ca.Sign(t, crltest.List{ThisUpdate: time.Date(1999, 12, 31, 23, 0, 0, 0, time.UTC), NextUpdate: time.Date(2000, 1, 4, 0, 0, 0, 0, time.UTC)}))
	synctest.Test(t, func(t *testing.T) {
		// A bubble begins at the start of the year 2000.
		events := &counter{}
		ca := crltest.NewCA(t, "CA", crltest.Options{Key: w.ca.Key, NotBefore: time.Now().AddDate(-1, 0, 0)})
		writeFile(t, path, ca.Sign(t, crltest.List{ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(60 * time.Hour)}))
		m, err := crl.New(crl.Config{Directory: t.TempDir(), Issuers: []*x509.Certificate{ca.Cert}, URLs: []string{"file://" + path}, Events: events})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		require.Equal(t, 1, events.count(), "at once")
		time.Sleep(23 * time.Hour)
		require.Equal(t, 1, events.count())
		time.Sleep(time.Hour + 2*time.Minute)
		synctest.Wait()
		require.Equal(t, 2, events.count(), "after a polling interval, with at most the backoff added")
		time.Sleep(24*time.Hour + 2*time.Minute)
		synctest.Wait()
		require.Equal(t, 3, events.count())
		time.Sleep(11*time.Hour + 2*time.Minute)
		synctest.Wait()
		require.Equal(t, 4, events.count(), "ahead of the end of the list")

		// The list ends: it is asked for ever again, at growing intervals.
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Equal(t, crl.StatusStale, m.Check(ca.Leaf(t, "x"), ca.Cert).Status)
		require.Len(t, m.Alarms(), 1)
		before := events.count()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		tries := events.count() - before
		require.Greater(t, tries, 20)
		require.Less(t, tries, 120)
		writeFile(t, path, ca.Sign(t, crltest.List{Number: 2, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(60 * time.Hour)}))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Empty(t, m.Alarms(), "it clears by itself")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestVerifyConnection(t *testing.T) {
	w := newWorld(t)
	w.start()
	server := crltest.NewCA(t, "server", crltest.Options{Parent: w.ca, NotCA: true})
	client := crltest.NewCA(t, "client", crltest.Options{Parent: w.ca, NotCA: true})
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.Cert)
	handshake := func() error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		cfg := &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{server.Cert.Raw}, PrivateKey: server.Key}},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: roots, Rand: rand.Reader,
			Time: w.clock, VerifyConnection: w.m.VerifyConnection,
		}
		go func() {
			c := tls.Client(b, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{client.Cert.Raw}, PrivateKey: client.Key}}})
			_ = c.Handshake()
			_, _ = c.Read(make([]byte, 1))
		}()
		return tls.Server(a, cfg).Handshake()
	}
	require.ErrorIs(t, handshake(), crl.ErrUnknown)
	w.list(crltest.List{})
	require.NoError(t, w.fetch())
	require.NoError(t, handshake())
	w.list(crltest.List{Number: 2, Entries: []crltest.Entry{entry(client.Cert, 1)}})
	require.NoError(t, w.fetch())
	var revoked *crl.RevokedError
	require.True(t, errors.As(handshake(), &revoked))
	require.ErrorContains(t, w.m.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{client.Cert}}), "not verified")
	require.NoError(t, w.m.VerifyConnection(tls.ConnectionState{}))
}
