package autoinstall_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/tftp"
)

func TestTheSecondFileIsAskedForUnlessTheServerIsSilent(t *testing.T) {
	// The first file's error decides whether the second one is asked for.
	for name, tt := range map[string]struct {
		err  error
		asks int
	}{
		"no such file":              {autoinstall.ErrNotFound, 2},
		"TFTP error 0":              {fmt.Errorf("x: %w", &tftp.ServerError{Message: "File not found"}), 2},
		"TFTP access violation":     {&tftp.ServerError{Code: 2}, 2},
		"one address of two silent": {errors.Join(tftp.ErrTimeout, &tftp.ServerError{}), 2},
		"TFTP garbage":              {tftp.ErrProtocol, 2},
		"another error":             {errors.New("500"), 2},
		"TFTP silence":              {fmt.Errorf("x: %w", tftp.ErrTimeout), 1},
		"nothing listens":           {&url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: errors.New("refused")}}, 1},
		"no such name":              {&net.DNSError{Err: "no such host", IsNotFound: true}, 1},
		"HTTP silence":              {&url.Error{Op: "Get", Err: os.ErrDeadlineExceeded}, 1},
		"HTTP took too long":        {context.DeadlineExceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			urls, err := autoinstall.ServerURLs("192.0.2.1", autoinstall.FileNames(serialNumber)...)
			require.NoError(t, err)
			b := newBench(t, func(c *autoinstall.Config) { c.Discoverer = autoinstall.Static(urls) })
			b.shelf.err = tt.err
			err = b.device(t).Once(t.Context())
			require.ErrorIs(t, err, autoinstall.ErrNothingYet)
			require.Len(t, b.shelf.fetched, tt.asks)
		})
	}
}

func TestPlainFileOfAServerThatForbidsTheEncryptedOne(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusInternalServerError} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, ".cfg") {
				w.WriteHeader(status)
				return
			}
			_, _ = w.Write([]byte(config1))
		}))
		t.Cleanup(srv.Close)
		urls, err := autoinstall.ServerURLs(srv.URL, autoinstall.FileNames(serialNumber)...)
		require.NoError(t, err)
		fetcher, err := autoinstall.NewFetcher(autoinstall.FetchConfig{})
		require.NoError(t, err)
		b := newBench(t, func(c *autoinstall.Config) {
			c.Discoverer, c.Fetcher = autoinstall.Static(urls), fetcher
		})
		require.NoError(t, b.device(t).Once(t.Context()))
		require.FileExists(t, b.path)
	}
}
