package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/internal/peer"
)

func TestFullDiskPausesAndSaysSo(t *testing.T) {
	peer.NeedRoot(t)
	s := newSite(t, 2<<20)
	disk := s.path("disk")
	require.NoError(t, os.Mkdir(disk, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	var asked atomic.Int32
	files := http.FileServer(http.Dir(s.path("repo")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".iso") {
			asked.Add(1)
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	c := s.config("a", "", "artifactory="+server.URL)
	out, err := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", filepath.Join(disk, "out.iso")).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "disk full")
	require.Contains(t, string(out), "imageget resume")
	require.Zero(t, asked.Load(), "it was noticed before the first byte")
	st := s.show(c)
	require.Equal(t, download.StatePaused, st.State)
	require.Contains(t, st.Reason, "disk full")
	require.NoError(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=8m"))
	s.run("resume", "-lab", "-config", c, "-version", siteVersion)
	s.requireImage(filepath.Join(disk, "out.iso"))
}
