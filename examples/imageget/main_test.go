package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"imageget": main}) }

// writeKeys puts key.pem, key.pub and stranger.pub into a folder.
func writeKeys(dir string) error {
	for i, name := range []string{"key", "stranger"} {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, 32))
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return err
		}
		for file, block := range map[string]*pem.Block{
			name + ".pem": {Type: "PRIVATE KEY", Bytes: private}, name + ".pub": {Type: "PUBLIC KEY", Bytes: public},
		} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestScripts runs the scripts in testdata. Each finds key.pem, key.pub and
// stranger.pub; $WORK in JSON files is replaced.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		names, err := filepath.Glob(filepath.Join(e.WorkDir, "*.json"))
		if err != nil {
			return err
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if err := os.WriteFile(name, bytes.ReplaceAll(data, []byte("$WORK"), []byte(e.WorkDir)), 0o600); err != nil {
				return err
			}
		}
		return writeKeys(e.WorkDir)
	}})
}

// site is a folder with a repository of one image and processes around it.
type site struct {
	t     *testing.T
	dir   string
	image []byte
}

const siteVersion = "SSR-7.1.0"

func newSite(t *testing.T, size int) *site {
	s := &site{t: t, dir: t.TempDir(), image: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte{3}).Read(s.image)
	require.NoError(t, writeKeys(s.dir))
	require.NoError(t, os.WriteFile(s.path(siteVersion+".iso"), s.image, 0o600))
	s.run("repo", "make", "-dir", s.path("repo"), "-key", s.path("key.pem"), s.path(siteVersion+".iso"))
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(s.t, err)
	// testscript.Main runs the command that the program's name says.
	link := s.path("imageget")
	if _, err := os.Lstat(link); err != nil {
		require.NoError(s.t, os.Symlink(self, link))
	}
	cmd := exec.CommandContext(s.t.Context(), link, args...)
	cmd.Dir = s.dir
	return cmd
}

func (s *site) run(args ...string) string {
	out, err := s.command(args...).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	return string(out)
}

// config writes a configuration for sources given as kind=url.
func (s *site) config(name string, extra string, sources ...string) string {
	var list []string
	for _, src := range sources {
		kind, url, _ := strings.Cut(src, "=")
		list = append(list, fmt.Sprintf(`{"kind": %q, "url": %q}`, kind, url))
	}
	text := fmt.Sprintf(`{"access-mode": "prefer-conductor", "sources": [%s], "trusted-keys": ["key.pub"], "state": %q, "maximum-retry-delay": "100ms"%s}`,
		strings.Join(list, ", "), name+"-state", extra)
	require.NoError(s.t, os.WriteFile(s.path(name+".json"), []byte(text), 0o600))
	return s.path(name + ".json")
}

// serve starts a server process and returns its address.
func (s *site) serve(dir string, args ...string) string {
	cmd := s.command(append([]string{"serve", "-dir", dir, "-listen", "127.0.0.1:0"}, args...)...)
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	first, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(s.t, err)
	_, rest, ok := strings.Cut(first, " on ")
	require.True(s.t, ok, first)
	url, _, _ := strings.Cut(rest, " ")
	return url
}

func (s *site) show(config string) download.Status {
	out, err := s.command("show", "-lab", "-json", "-config", config).Output()
	require.NoError(s.t, err)
	var list []download.Status
	require.NoError(s.t, json.Unmarshal(out, &list))
	if len(list) == 0 {
		return download.Status{}
	}
	return list[0]
}

func (s *site) until(config string, ok func(download.Status) bool) {
	require.Eventually(s.t, func() bool { return ok(s.show(config)) }, 60*time.Second, 50*time.Millisecond)
}

func (s *site) requireImage(path string) {
	got, err := os.ReadFile(path)
	require.NoError(s.t, err)
	require.True(s.t, bytes.Equal(s.image, got))
}

func TestPauseOverARestart(t *testing.T) {
	s := newSite(t, 4<<20)
	c := s.config("a", `, "max-bandwidth": 8000000`, "artifactory="+s.serve(s.path("repo")))
	out := s.path("out.iso")
	start := func() *exec.Cmd {
		cmd := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", out, "-json")
		require.NoError(t, cmd.Start())
		return cmd
	}
	first := start()
	s.until(c, func(st download.Status) bool { return st.State == download.StateDownloading && st.Durable > 0 })
	busy, err := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", out).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(busy), "belongs to another process")
	s.run("pause", "-lab", "-config", c, "-version", siteVersion)
	s.until(c, func(st download.Status) bool { return st.State == download.StatePaused && st.Connections == 0 })
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	require.Equal(t, download.StatePaused, s.show(c).State)
	second := start()
	s.until(c, func(st download.Status) bool { return st.State == download.StatePaused })
	require.NoFileExists(t, out)
	require.Contains(t, s.run("resume", "-lab", "-config", c, "-version", siteVersion), "goes on")
	require.NoError(t, second.Wait())
	s.requireImage(out)

	// Without a process that has the download, resume goes on by itself.
	require.NoError(t, os.Remove(out))
	third := start()
	s.until(c, func(st download.Status) bool { return st.State == download.StateDownloading && st.Durable > 0 })
	s.run("pause", "-lab", "-config", c, "-version", siteVersion)
	require.NoError(t, third.Process.Kill())
	_ = third.Wait()
	require.Contains(t, s.run("resume", "-lab", "-config", c, "-version", siteVersion), "complete")
	s.requireImage(out)
}

// The second node waits for the first. The first is killed half way; the second
// takes what is there, and the rest from the repository.
func TestSequencedPairWithTheFirstNodeKilled(t *testing.T) {
	s := newSite(t, 6<<20)
	origin := s.serve(s.path("repo"))
	for _, dir := range []string{"n1", "n2"} {
		require.NoError(t, os.Mkdir(s.path(dir), 0o755))
	}
	first := s.config("first", `, "max-bandwidth": 8000000`, "artifactory="+origin)
	n1 := s.command("get", "-lab", "-config", first, "-version", siteVersion, "-out", s.path("n1/image.iso"), "-sequenced", "-role", "first")
	require.NoError(t, n1.Start())
	s.until(first, func(st download.Status) bool { return st.Durable > 0 })
	second := s.config("second", `, "peer-grace": "10s"`, "peer="+s.serve(s.path("n1")), "artifactory="+origin)
	n2 := s.command("get", "-lab", "-config", second, "-version", siteVersion, "-out", s.path("n2/image.iso"), "-sequenced", "-role", "second", "-json")
	require.NoError(t, n2.Start())
	s.until(second, func(st download.Status) bool { return st.State == download.StatePeer && st.Verified > 0 })
	require.NoError(t, n1.Process.Kill())
	_ = n1.Wait()
	require.NoError(t, n2.Wait())
	s.requireImage(s.path("n2/image.iso"))
	st := s.show(second)
	require.Equal(t, int64(len(s.image)), st.Received, "no byte came twice")

	// The first goes on where it was, and now has a peer that is complete.
	first = s.config("first", "", "peer="+s.serve(s.path("n2")), "artifactory=http://127.0.0.1:1/")
	s.run("get", "-lab", "-config", first, "-version", siteVersion, "-out", s.path("n1/image.iso"))
	s.requireImage(s.path("n1/image.iso"))
	require.Less(t, s.show(first).Received, int64(len(s.image)))
}

func TestRollbackIsRefused(t *testing.T) {
	s := newSite(t, 1<<20)
	require.NoError(t, os.CopyFS(s.path("old"), os.DirFS(s.path("repo"))))
	s.image[0] ^= 1
	require.NoError(t, os.WriteFile(s.path(siteVersion+".iso"), s.image, 0o600))
	s.run("repo", "make", "-dir", s.path("repo"), "-key", s.path("key.pem"), s.path(siteVersion+".iso"))
	c := s.config("a", "", "artifactory="+s.serve(s.path("repo")))
	s.run("get", "-lab", "-config", c, "-version", siteVersion, "-out", s.path("out.iso"))
	s.requireImage(s.path("out.iso"))
	c = s.config("a", "", "artifactory="+s.serve(s.path("old")))
	out, err := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", s.path("again.iso")).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "older than one that was accepted before")
	require.NoFileExists(t, s.path("again.iso"))

	s.run("repo", "make", "-dir", s.path("repo"), "-key", s.path("key.pem"), "-valid", "1s", s.path(siteVersion+".iso"))
	c = s.config("b", "", "artifactory="+s.serve(s.path("repo")))
	require.Eventually(t, func() bool {
		out, err := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", s.path("late.iso")).CombinedOutput()
		return err != nil && strings.Contains(string(out), "expired")
	}, 20*time.Second, 200*time.Millisecond)
}

func TestFailsWithTheErrorsOfEverySource(t *testing.T) {
	s := newSite(t, 1<<10)
	c := s.config("a", `, "attempts": 2`, "conductor-1=http://127.0.0.1:1/", "artifactory="+s.serve(s.path("repo"))+"nothing/")
	cmd := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", s.path("out.iso"))
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	text := string(out)
	require.Equal(t, 1, strings.Count(text[strings.Index(text, "imageget:"):], "\n"), "the error is one line")
	for _, part := range []string{"all attempts have failed", "conductor-1: connection", "artifactory: not found"} {
		require.Contains(t, text, part)
	}
	require.Equal(t, download.StateFailed, s.show(c).State)
}

func TestTimeoutEndsIt(t *testing.T) {
	s := newSite(t, 1<<10)
	c := s.config("a", `, "attempts": 0, "timeout": "700ms"`, "conductor-1=http://127.0.0.1:1/")
	out, err := s.command("get", "-lab", "-config", c, "-version", siteVersion, "-out", s.path("out.iso")).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "the timeout has passed")
}

func TestExitStatus(t *testing.T) {
	var out bytes.Buffer
	require.Equal(t, 2, exitStatus(usagef("a\nb"), &out))
	require.Equal(t, "imageget: a; b\n", out.String())
	require.Equal(t, 1, exitStatus(fmt.Errorf("x"), &out))
	require.Zero(t, exitStatus(nil, &out))
}

func TestBar(t *testing.T) {
	for _, width := range []int{20, 40, 79, 200} {
		b := bar(download.Status{State: download.StateDownloading, Size: 100, Verified: 50, Rate: 12_300_000, TimeLeft: 61, Source: "artifactory"}, width)
		require.LessOrEqual(t, len(b), width)
	}
	require.Contains(t, bar(download.Status{Size: 100, Verified: 100, TimeLeft: -1}, 60), "100.0%")
}
