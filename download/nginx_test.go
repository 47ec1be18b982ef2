package download_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/internal/peer"
)

// nginx is a server that we did not write, in front of a repository.
type nginx struct {
	t    testing.TB
	dir  string
	addr string
	cmd  *exec.Cmd
}

// startNginx serves root; extra goes into the location.
func startNginx(t testing.TB, root, extra string) *nginx {
	program := peer.Need(t, "nginx")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &nginx{t: t, dir: t.TempDir(), addr: l.Addr().String()}
	require.NoError(t, l.Close())
	// The workers run as another user when we are root.
	for d := root; d != "/" && d != "."; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode().Perm()&0o005 != 0o005 && filepath.Dir(d) != "/" {
			require.NoError(t, os.Chmod(d, info.Mode().Perm()|0o055))
		}
	}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s; ", kind, filepath.Join(n.dir, kind))
	}
	config := fmt.Sprintf("daemon off; master_process off; worker_processes 1; pid %s; error_log %s;\n"+
		"events { worker_connections 256; }\nhttp { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; %s\n"+
		"server { listen %s; root %s; location / { %s } } }\n",
		filepath.Join(n.dir, "pid"), filepath.Join(n.dir, "error.log"), temp, n.addr, root, extra)
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "nginx.conf"), []byte(config), 0o600))
	n.cmd = exec.Command(program, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", filepath.Join(n.dir, "error.log"))
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *nginx) start() {
	n.cmd = exec.Command(n.cmd.Args[0], n.cmd.Args[1:]...)
	require.NoError(n.t, n.cmd.Start())
	require.Eventually(n.t, func() bool {
		c, err := net.Dial("tcp", n.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

func (n *nginx) stop() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

func (n *nginx) url() string { return "http://" + n.addr }

func TestNginx(t *testing.T) {
	f := newFixture(t, 24<<20)
	for name, extra := range map[string]string{
		"plain":           "",
		"no ranges":       "max_ranges 0;",
		"no validators":   "etag off; if_modified_since off;",
		"slow connection": "limit_rate 8m; limit_conn_status 503;",
	} {
		t.Run(name, func(t *testing.T) {
			n := startNginx(t, f.dir, extra)
			out := filepath.Join(t.TempDir(), "image")
			st, err := newDownloader(t, f.config(t, httpSource(t, download.KindArtifactory, n.url()))).
				Download(t.Context(), download.Request{Version: version, Out: out})
			require.NoError(t, err)
			f.requireImage(t, out)
			require.Equal(t, int64(len(f.image)), st.Received)
		})
	}
}

func TestNginxIsKilledAndComesBack(t *testing.T) {
	f := newFixture(t, 16<<20)
	n := startNginx(t, f.dir, "limit_rate 2m;")
	cfg := f.config(t, httpSource(t, download.KindArtifactory, n.url()))
	cfg.Policy.MaxRetryDelay = 200 * time.Millisecond
	cfg.Tuning.MaxConnections = 2
	cfg.Tuning.Checkpoint = 50 * time.Millisecond
	d := newDownloader(t, cfg)
	out := filepath.Join(t.TempDir(), "image")
	type outcome struct {
		st  download.Status
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		st, err := d.Download(t.Context(), download.Request{Version: version, Out: out})
		done <- outcome{st, err}
	}()
	for _, share := range []int64{4, 2} {
		require.Eventually(t, func() bool {
			st, err := d.Store().Show(version)
			return err == nil && st.Durable >= int64(len(f.image))/(2*share)
		}, 60*time.Second, 10*time.Millisecond)
		n.stop()
		require.Eventually(t, func() bool {
			_, err := http.Get(n.url())
			return err != nil
		}, 10*time.Second, 10*time.Millisecond)
		n.start()
	}
	o := <-done
	require.NoError(t, o.err)
	f.requireImage(t, out)
	require.LessOrEqual(t, o.st.Received, int64(len(f.image))+8*f.manifest.Chunks.Size)
}

// Content that changes under its name while it is fetched is noticed chunk by
// chunk, never mixed in, and the source is named.
func TestNginxContentChangesUnderTheSameName(t *testing.T) {
	f := newFixture(t, 16<<20)
	n := startNginx(t, f.dir, "limit_rate 1m;")
	good := startNginx(t, f.dir+"-good", "")
	require.NoError(t, os.CopyFS(f.dir+"-good", os.DirFS(f.dir)))
	cfg := f.config(t, httpSource(t, download.KindConductor1, n.url()), httpSource(t, download.KindArtifactory, good.url()))
	cfg.Tuning.MaxConnections = 2
	// The change comes at the first sign of progress, while ranges are still to
	// be asked for: an open file would go on with its old content.
	image := filepath.Join(f.dir, f.manifest.Path())
	var change sync.Once
	cfg.Progress = func(st download.Status) {
		if st.Verified > 0 {
			change.Do(func() {
				assert.NoError(t, os.WriteFile(image+".new", imageBytes(len(f.image), 50), 0o644))
				assert.NoError(t, os.Rename(image+".new", image))
			})
		}
	}
	d := newDownloader(t, cfg)
	out := filepath.Join(t.TempDir(), "image")
	done := make(chan error, 1)
	var last download.Status
	go func() {
		var err error
		last, err = d.Download(t.Context(), download.Request{Version: version, Out: out})
		done <- err
	}()
	require.NoError(t, <-done)
	f.requireImage(t, out)
	require.Equal(t, "left out", last.Sources[0].State)
	require.Contains(t, last.Sources[0].Error, "wrong bytes")
}
