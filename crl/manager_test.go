package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
)

// world is a manager with everything around it.
type world struct {
	t   testing.TB
	ca  *crltest.CA
	cfg crl.Config
	m   *crl.Manager

	mu      sync.Mutex
	now     time.Time
	alarms  map[string]mooring.Alarm
	history []mooring.Alarm
	events  []mooring.Event
	revoked []string
	handler http.HandlerFunc
	url     string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, ca: crltest.NewCA(t, "CA", crltest.Options{}), now: crltest.Now, alarms: make(map[string]mooring.Alarm)}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		h := w.handler
		w.mu.Unlock()
		h(rw, r)
	}))
	t.Cleanup(s.Close)
	w.url = s.URL + "/ca.crl"
	w.cfg = crl.Config{
		Directory: filepath.Join(fastDir(t), "crl"), Issuers: []*x509.Certificate{w.ca.Cert}, URLs: []string{w.url},
		Alarms: w, Events: w, Now: w.clock, Node: "node-1",
		OnRevoked: func(_ context.Context, cert *x509.Certificate, r crl.Result) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.revoked = append(w.revoked, cert.Subject.CommonName+" "+r.Reason)
		},
	}
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) SetAlarm(_ context.Context, a mooring.Alarm) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, a)
	if a.Active() {
		w.alarms[a.ID] = a
	} else {
		delete(w.alarms, a.ID)
	}
}

func (w *world) RecordEvent(_ context.Context, e mooring.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// start makes a manager, as a restart would.
func (w *world) start() *crl.Manager {
	w.t.Helper()
	m, err := crl.New(w.cfg)
	require.NoError(w.t, err)
	require.NoError(w.t, m.Load(context.Background()))
	w.m = m
	return m
}

// serve sets what the server answers.
func (w *world) serve(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = h
}

// list makes a list at the world's time and serves it.
func (w *world) list(l crltest.List) []byte {
	w.t.Helper()
	if l.ThisUpdate.IsZero() {
		l.ThisUpdate = w.clock().Add(-time.Minute)
		l.NextUpdate = w.clock().Add(24 * time.Hour)
	}
	der := w.ca.Sign(w.t, l)
	w.serve(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(der) })
	return der
}

func (w *world) fetch() error { return w.m.Fetch(context.Background()) }

func (w *world) status(cert *x509.Certificate) crl.Status {
	w.t.Helper()
	return w.m.Check(cert, w.ca.Cert).Status
}

// onlyAlarm returns the text of the one active alarm.
func (w *world) onlyAlarm() string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Len(w.t, w.alarms, 1, "%v", w.alarms)
	for _, a := range w.alarms {
		return a.ID + " " + a.Text
	}
	return ""
}

func (w *world) noAlarm() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Empty(w.t, w.alarms)
	require.Empty(w.t, w.m.Alarms())
}

func entry(cert *x509.Certificate, reason int) crltest.Entry {
	return crltest.Entry{Serial: cert.SerialNumber, Reason: reason}
}

func TestAnswersAndTheirGrounds(t *testing.T) {
	w := newWorld(t)
	good, bad, held := w.ca.Leaf(t, "good"), w.ca.Leaf(t, "bad"), w.ca.Leaf(t, "held")
	m := w.start()
	r := m.Check(good, w.ca.Cert)
	require.Equal(t, crl.StatusUnknown, r.Status)
	require.Contains(t, r.Why, "no list")
	_, _, _, err := m.CheckRevocation(t.Context(), good, w.ca.Cert)
	require.ErrorIs(t, err, crl.ErrUnknown)

	w.list(crltest.List{Entries: []crltest.Entry{entry(bad, 1), entry(held, 6)}})
	require.NoError(t, w.fetch())
	w.noAlarm()
	require.Equal(t, crl.StatusGood, w.status(good))
	require.Equal(t, crl.StatusGood, m.Check(good, nil).Status)
	r = m.Check(bad, w.ca.Cert)
	require.Equal(t, crl.StatusRevoked, r.Status)
	require.Equal(t, "keyCompromise", r.Reason)
	require.Equal(t, crltest.Now.Add(-time.Hour), r.RevokedAt)
	require.Equal(t, w.url, r.Source)
	require.Equal(t, crl.StatusOnHold, w.status(held))
	revoked, reason, at, err := m.CheckRevocation(t.Context(), held, w.ca.Cert)
	require.NoError(t, err)
	require.True(t, revoked)
	require.Equal(t, "certificateHold", reason)
	require.Equal(t, crltest.Now.Add(-time.Hour), at)
	_, steps := m.Explain(bad, w.ca.Cert)
	require.Contains(t, strings.Join(steps, "\n"), "names it, keyCompromise")

	stranger := crltest.NewCA(t, "stranger", crltest.Options{})
	r = m.Check(stranger.Leaf(t, "x"), nil)
	require.Equal(t, crl.StatusUnknown, r.Status)
	require.Contains(t, r.Why, "no configured authority")
	require.Equal(t, crl.StatusUnknown, m.Check(good, stranger.Cert).Status)

	w.pass(25 * time.Hour)
	r = m.Check(good, w.ca.Cert)
	require.Equal(t, crl.StatusStale, r.Status)
	require.Contains(t, r.Why, "good as of")
	require.Equal(t, crl.StatusRevoked, w.status(bad), "a stale list still revokes")
	require.NoError(t, m.Permit(good, r), "within the time of grace")
	revoked, _, _, err = m.CheckRevocation(t.Context(), good, w.ca.Cert)
	require.NoError(t, err, "an expired list does not cut a router off at once")
	require.False(t, revoked)
	w.pass(72 * time.Hour)
	require.ErrorIs(t, m.Permit(good, r), crl.ErrStale)
	_, _, _, err = m.CheckRevocation(t.Context(), good, w.ca.Cert)
	require.ErrorIs(t, err, crl.ErrStale)
}

func TestPolicy(t *testing.T) {
	w := newWorld(t)
	w.cfg.Fail = crl.FailSoft
	m := w.start()
	cert := w.ca.Leaf(t, "x")
	require.NoError(t, m.Permit(cert, crl.Result{Status: crl.StatusUnknown}))
	require.NoError(t, m.Permit(cert, crl.Result{Status: crl.StatusStale}))
	var revoked *crl.RevokedError
	require.ErrorAs(t, m.Permit(cert, crl.Result{Status: crl.StatusOnHold}), &revoked)
	require.ErrorAs(t, m.Permit(cert, crl.Result{Status: crl.StatusRevoked}), &revoked)
	w.cfg.Fail, w.cfg.Grace = crl.FailHard, -1
	m = w.start()
	require.ErrorIs(t, m.Permit(cert, crl.Result{Status: crl.StatusUnknown}), crl.ErrUnknown)
	require.ErrorIs(t, m.Permit(cert, crl.Result{Status: crl.StatusStale, StaleSince: w.clock().Add(-time.Second)}), crl.ErrStale)
	require.ErrorIs(t, m.Permit(cert, crl.Result{}), crl.ErrUnknown)
}

// TestFaults shows for each fault that the last known good list stays in force,
// that an alarm says which and why, and that it clears by itself.
func TestFaults(t *testing.T) {
	other := crltest.NewCA(t, "other", crltest.Options{})
	unknown := crltest.Scope{Raw: []byte{0x30, 0}}.Extension()
	unknown.Id = []int{1, 2, 3, 4}
	for name, c := range map[string]struct {
		h    func(w *world) http.HandlerFunc
		want string
	}{
		"server down": {func(*world) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, "EOF"},
		"error": {func(*world) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) }
		}, "500"},
		"truncated":       {bytesOf(func(w *world) []byte { d := w.ca.Sign(w.t, crltest.List{Number: 9}); return d[:len(d)/2] }), "cut off"},
		"wrong signature": {bytesOf(func(w *world) []byte { return w.ca.Sign(w.t, crltest.List{Number: 9, BadSignature: true}) }), "does not verify"},
		"other key": {bytesOf(func(w *world) []byte {
			return other.Sign(w.t, crltest.List{Number: 9, Issuer: w.ca.Cert.RawSubject, NoKeyID: true})
		}), "does not verify"},
		"wrong issuer": {bytesOf(func(w *world) []byte { return other.Sign(w.t, crltest.List{Number: 9}) }), "no configured authority"},
		"older number": {bytesOf(func(w *world) []byte { return w.ca.Sign(w.t, crltest.List{Number: 4}) }), "number 4 after 5"},
		"older date": {bytesOf(func(w *world) []byte {
			return w.ca.Sign(w.t, crltest.List{Number: 9, ThisUpdate: crltest.Now.AddDate(0, -1, 0)})
		}), "thisUpdate"},
		"same number": {bytesOf(func(w *world) []byte {
			return w.ca.Sign(w.t, crltest.List{Number: 5, ThisUpdate: crltest.Now.Add(-time.Minute)})
		}), "other content"},
		"future": {bytesOf(func(w *world) []byte {
			return w.ca.Sign(w.t, crltest.List{Number: 9, ThisUpdate: crltest.Now.Add(time.Hour), NextUpdate: crltest.Now.Add(2 * time.Hour)})
		}), "future"},
		"unknown critical": {bytesOf(func(w *world) []byte {
			return w.ca.Sign(w.t, crltest.List{Number: 9, Extensions: []pkixExtension{unknown}})
		}), "1.2.3.4"},
		"version 1":  {bytesOf(func(w *world) []byte { return w.ca.Sign(w.t, crltest.List{Version1: true}) }), "no CRL number"},
		"login page": {bytesOf(func(*world) []byte { return []byte("<html><body>Please log in") }), "login page"},
		"two gigabytes": {func(*world) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				_, _ = rw.Write([]byte("\x30\x84\x7f\xff\xff\xff\x30\x84\x7f\xff\xff\x00"))
				for r.Context().Err() == nil {
					if _, err := rw.Write(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			}
		}, "more than the limit"},
		"PEM that never ends": {func(*world) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				_, _ = rw.Write([]byte("-----BEGIN X509 CRL-----\n" + base64.StdEncoding.EncodeToString([]byte("\x30\x84\x7f\xff\xff\xff\x30\x84\x7f\xff\xff\x00")) + "\n"))
				for r.Context().Err() == nil {
					if _, err := rw.Write(bytes.Repeat([]byte("MIIB\n"), 1<<12)); err != nil {
						return
					}
				}
			}
		}, "limit"},
		"redirect loop": {func(*world) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/loop", http.StatusFound) }
		}, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cfg.MaxListBytes = 4 << 20
			bad, good := w.ca.Leaf(t, "bad"), w.ca.Leaf(t, "good")
			w.start()
			w.list(crltest.List{Number: 5, Entries: []crltest.Entry{entry(bad, 1)}})
			require.NoError(t, w.fetch())
			w.serve(c.h(w))
			require.ErrorContains(t, w.fetch(), c.want)
			for range 2 {
				require.Equal(t, crl.StatusRevoked, w.status(bad))
				require.Equal(t, crl.StatusGood, w.status(good))
				text := w.onlyAlarm()
				require.Contains(t, text, w.url)
				require.Contains(t, text, c.want)
				require.Contains(t, text, "number 5 stays in force")
				require.Len(t, w.m.Alarms(), 1)
				w.start() // the same again after a restart
			}
			w.list(crltest.List{Number: 10})
			require.NoError(t, w.fetch())
			w.noAlarm()
			require.Equal(t, crl.StatusGood, w.status(bad), "number 10 does not list it")
		})
	}
}

func bytesOf(make func(w *world) []byte) func(w *world) http.HandlerFunc {
	return func(w *world) http.HandlerFunc {
		data := make(w)
		return func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(data) }
	}
}

func TestExpiredListStaysAndAlarms(t *testing.T) {
	w := newWorld(t)
	w.start()
	bad := w.ca.Leaf(t, "bad")
	w.list(crltest.List{Entries: []crltest.Entry{entry(bad, 1)}, ThisUpdate: crltest.Now.AddDate(0, 0, -9), NextUpdate: crltest.Now.AddDate(0, 0, -2)})
	require.NoError(t, w.fetch())
	require.Contains(t, w.onlyAlarm(), "last known good")
	require.Equal(t, crl.StatusRevoked, w.status(bad))
	require.Equal(t, crl.StatusStale, w.status(w.ca.Leaf(t, "good")))
	require.Contains(t, w.m.Lists()[0].State, "stale")
	w.list(crltest.List{Number: 2})
	require.NoError(t, w.fetch())
	w.noAlarm()
}

func TestRollbackIsRefusedAfterRestart(t *testing.T) {
	w := newWorld(t)
	w.start()
	old := w.list(crltest.List{Number: 7})
	require.NoError(t, w.fetch())
	w.list(crltest.List{Number: 8})
	require.NoError(t, w.fetch())
	// The list itself is lost; only the mark remains.
	require.NoError(t, os.Remove(filepath.Join(w.cfg.Directory, "master.crl-index")))
	w.start()
	require.Equal(t, crl.StatusUnknown, w.status(w.ca.Leaf(t, "x")))
	w.serve(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(old) })
	require.ErrorIs(t, w.fetch(), crl.ErrRollback)
	require.Contains(t, w.onlyAlarm(), "number 7 after 8")

	// A damaged file of marks is said, and mended from what is in force.
	w.list(crltest.List{Number: 9})
	require.NoError(t, w.fetch())
	marks := filepath.Join(w.cfg.Directory, "marks.json")
	data, err := os.ReadFile(marks)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(marks, bytes.Replace(data, []byte(`"9"`), []byte(`"1"`), 1), 0o600))
	w.history = nil
	w.start()
	w.noAlarm()
	require.Contains(t, w.history[0].Text, "marks.json")
	w.serve(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(old) })
	require.ErrorIs(t, w.fetch(), crl.ErrRollback)
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.start()
	a, b, c := w.ca.Leaf(t, "a"), w.ca.Leaf(t, "b"), w.ca.Leaf(t, "c")
	w.list(crltest.List{Entries: []crltest.Entry{entry(a, 1), entry(b, 1)}})
	require.NoError(t, w.fetch())
	der := w.list(crltest.List{Number: 2, Entries: []crltest.Entry{entry(b, 1), entry(c, 1)}})
	require.NoError(t, w.fetch())
	w.serve(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(404) })
	require.Error(t, w.fetch())
	require.Len(t, w.events, 3)
	e := w.events[1]
	require.Equal(t, "system.crl_update", e.Type)
	require.Equal(t, "node-1", e.Node)
	require.Equal(t, "Updated CRL for issuer: CA", e.Description)
	var d map[string]any
	require.NoError(t, json.Unmarshal(e.Detail, &d))
	require.Equal(t, map[string]any{
		"forced": true, "last_updated": "Jun  1 11:59:00 2026 GMT", "next_update": "Jun  2 12:00:00 2026 GMT", "crl_url": w.url,
		"size": float64(len(der)), "total_entries": 2.0, "added_entries": 1.0, "removed_entries": 1.0, "success": true,
		"certificate_authority": "/O=Test/CN=CA",
	}, d)
	require.NoError(t, json.Unmarshal(w.events[2].Detail, &d))
	require.Equal(t, false, d["success"])
	require.Contains(t, d["error"], "404")
	require.Equal(t, crl.Counters{FetchSuccess: 2, FetchFailure: 1, IngestionSuccess: 2}, w.m.Counters())
}

func TestOnlyNewlyRevokedCertificatesAreReported(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.ca.Leaf(t, "a"), w.ca.Leaf(t, "b"), w.ca.Leaf(t, "c")
	w.cfg.Certificates = []*x509.Certificate{a, b}
	w.start()
	w.list(crltest.List{Entries: []crltest.Entry{entry(a, 1), entry(c, 4)}})
	require.NoError(t, w.fetch())
	require.Equal(t, []string{"a keyCompromise"}, w.revoked)
	w.list(crltest.List{Number: 2, Entries: []crltest.Entry{entry(a, 1), entry(b, 6), entry(c, 4)}})
	require.NoError(t, w.fetch())
	require.Equal(t, []string{"a keyCompromise", "b certificateHold"}, w.revoked)
	w.m.Learn(t.Context(), c)
	require.Equal(t, []string{"a keyCompromise", "b certificateHold", "c superseded"}, w.revoked)
	w.start()
	require.NoError(t, w.fetch())
	require.Len(t, w.revoked, 3, "a restart repeats nothing")
	w.list(crltest.List{Number: 3, Entries: []crltest.Entry{entry(a, 1)}})
	require.NoError(t, w.fetch())
	w.list(crltest.List{Number: 4, Entries: []crltest.Entry{entry(a, 1), entry(b, 1)}})
	require.NoError(t, w.fetch())
	require.Equal(t, "b keyCompromise", w.revoked[3], "a hold that was lifted can come again")
}

func TestNotModified(t *testing.T) {
	w := newWorld(t)
	w.start()
	der := w.ca.Sign(t, crltest.List{})
	conditional := 0
	w.serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"v1"` {
			conditional++
			rw.WriteHeader(http.StatusNotModified)
			return
		}
		rw.Header().Set("ETag", `"v1"`)
		_, _ = rw.Write(der)
	})
	require.NoError(t, w.fetch())
	require.NoError(t, w.fetch())
	w.start()
	require.NoError(t, w.fetch())
	require.Equal(t, 2, conditional)
	// Nothing is in force: the server must not be asked whether it changed.
	require.NoError(t, os.Remove(filepath.Join(w.cfg.Directory, "master.crl-index")))
	w.start()
	require.NoError(t, w.fetch())
	require.Equal(t, 2, conditional)
	require.Equal(t, crl.StatusGood, w.status(w.ca.Leaf(t, "x")))
}

func TestBadConfigurationIsSaidAtOnce(t *testing.T) {
	_, err := crl.New(crl.Config{URLs: []string{"ldap://host/x", "gopher://x"}, PollingInterval: time.Minute, BackoffInterval: time.Millisecond, Fail: 7, MaxEntries: -1, Grace: 90 * 24 * time.Hour})
	for _, want := range []string{"directory", "issuers", "ldap is not supported", "gopher", "polling", "backoff", "policy 7", "entries", "grace"} {
		require.ErrorContains(t, err, want)
	}
}

func TestMassRemovalIsAnAlarm(t *testing.T) {
	w := newWorld(t)
	w.start()
	var l crltest.List
	for i := range 200 {
		l.Entries = append(l.Entries, crltest.Entry{Serial: big.NewInt(int64(i + 1))})
	}
	w.list(l)
	require.NoError(t, w.fetch())
	w.list(crltest.List{Number: 2, Entries: l.Entries[:50]})
	require.NoError(t, w.fetch())
	require.Contains(t, w.onlyAlarm(), "150 of 200 entries went at once")
	w.list(crltest.List{Number: 3, Entries: l.Entries[:49]})
	require.NoError(t, w.fetch())
	w.noAlarm()
}

func TestClockThatWentBackIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.list(crltest.List{})
	require.NoError(t, w.fetch())
	w.pass(-48 * time.Hour)
	w.start()
	require.Contains(t, w.onlyAlarm(), "clock")
	r := w.m.Check(w.ca.Leaf(t, "x"), w.ca.Cert)
	require.Equal(t, crl.StatusStale, r.Status)
	require.Contains(t, r.Why, "clock is behind")
	require.ErrorContains(t, w.fetch(), "one of the clocks is wrong")
	w.pass(48 * time.Hour)
	w.start()
	require.NoError(t, w.fetch())
	w.noAlarm()
}
