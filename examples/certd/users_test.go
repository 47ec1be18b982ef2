package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPasswordChangesWhileServing changes a user of a server that runs.
func TestPasswordChangesWhileServing(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	ca, err := os.ReadFile(s.ca)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	defer client.CloseIdleConnections()
	login := func(password string) int {
		resp, err := client.Post(s.url+"/api/v1/login", "application/json", strings.NewReader(`{"username":"admin","password":"`+password+`"}`))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, 200, login("TheAdminPassword1234"))
	pw := filepath.Join(t.TempDir(), "pw")
	require.NoError(t, os.WriteFile(pw, []byte("AnotherPassword1234\n"), 0o600))
	certd(t, "init", "-dir", s.dir, "-user", "admin", "-password-file", pw)
	require.Equal(t, 401, login("TheAdminPassword1234"))
	require.Equal(t, 200, login("AnotherPassword1234"))
}
