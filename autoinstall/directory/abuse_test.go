package directory_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/directory"
)

// send makes one request from an address; token may be empty.
func (w *world) send(method, serial, from, token string, body []byte) int {
	req := httptest.NewRequest(method, "/certificates/"+serial+".crt", bytes.NewReader(body))
	req.RemoteAddr = from
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, req)
	return rec.Code
}

func TestStrangersDontFillTheAuditRecord(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(c *directory.Config) { c.Now = func() time.Time { return now } })
	for i := range 500 {
		require.Equal(t, http.StatusUnauthorized, w.send("PUT", "SN1", fmt.Sprintf("192.0.2.%d:1", i%200), "", nil))
	}
	require.Len(t, w.events.events, 10)
	for _, e := range w.events.events {
		require.Equal(t, directory.EventUnauthorized, e.Type)
		require.False(t, e.Permitted)
	}
	// What somebody with a token does is recorded all the same.
	cert := certify(t, "SN1", newKey(t), nil, nil, nil)
	require.Equal(t, http.StatusCreated, w.send("PUT", "SN1", "192.0.2.1:1", w.secret.Reveal(), cert.Raw))
	require.Len(t, w.events.events, 11)
	require.Equal(t, "directory.publish", w.events.events[10].Type)

	// The rest is one number, once.
	now = now.Add(time.Minute)
	for range 3 {
		require.Equal(t, http.StatusOK, w.send("GET", "SN1", "192.0.2.1:1", "", nil))
	}
	require.Len(t, w.events.events, 12)
	require.Contains(t, w.events.events[11].Description, "490 more requests")
	var detail map[string]any
	require.NoError(t, json.Unmarshal(w.events.events[11].Detail, &detail))
	require.EqualValues(t, 490, detail["requests"])

	// The next minute is like the first.
	for range 12 {
		w.send("PUT", "SN1", "192.0.2.1:1", "", nil)
	}
	require.Len(t, w.events.events, 22)
}

func TestManyAddressesDontKeepOthersOut(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(c *directory.Config) {
		c.Now = func() time.Time { return now }
		c.LookupsPerMinute = 4
	})
	address := func(i int) string { return fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>8, i&0xff) }
	for i := range 10_500 {
		w.send("GET", "SN1", address(i), "", nil)
	}
	// The total limit has recovered, and no address is known yet.
	now = now.Add(time.Minute)
	for i := range 50 {
		require.Equal(t, http.StatusNotFound, w.send("GET", "SN1", address(20_000+i), "", nil), "address %d", i)
	}
	// One that is known is limited as ever.
	require.Equal(t, http.StatusNotFound, w.send("GET", "SN1", "192.0.2.1:1", "", nil))
	require.Equal(t, http.StatusTooManyRequests, w.send("GET", "SN1", "192.0.2.1:1", "", nil))
}

func TestStrangersDontUseUpTheLimitOfManufacturing(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(c *directory.Config) {
		c.Now = func() time.Time { return now }
		c.PublishesPerMinute = 4
	})
	limited := 0
	for i := range 500 {
		if w.send("PUT", "SN1", fmt.Sprintf("192.0.2.%d:1", i%250), "", nil) == http.StatusTooManyRequests {
			limited++
		}
	}
	require.NotZero(t, limited, "guessing is limited in total")
	cert := certify(t, "SN1", newKey(t), nil, nil, nil)
	require.Equal(t, http.StatusCreated, w.send("PUT", "SN1", "192.0.2.1:1", w.secret.Reveal(), cert.Raw))
	require.Equal(t, http.StatusTooManyRequests, w.send("PUT", "SN1", "192.0.2.1:1", w.secret.Reveal(), cert.Raw), "those with a token are limited too")
}
