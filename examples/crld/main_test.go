package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"crld": main}) }

// TestScripts runs the scripts in testdata. Each finds an authority in ca.pem,
// certificates in good.pem, bad.pem, held.pem and stranger.pem, and lists in
// ca.crl (PEM), ca-2.crl and expired.crl.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			p := newPKI(time.Now())
			if err := p.write(e.WorkDir); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ca-1.crl"), p.list(1, "bad"), 0o600); err != nil {
				return err
			}
			config := fmt.Sprintf(`{"directory": "state", "issuers": ["ca.pem"], "urls": ["file://%s"]}`, filepath.Join(e.WorkDir, "ca.crl"))
			return os.WriteFile(filepath.Join(e.WorkDir, "crld.json"), []byte(config), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits runs a program that must end with an exit code: exits CODE PROGRAM ARG...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code is %d, not %s", code, args[0])
	}
}

// program runs crld inside this process.
func program(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	err := run(t.Context(), args, nil, &out, &errs)
	switch c, ok := err.(exitCode); {
	case ok:
		code = int(c)
	case err != nil:
		code = 1
		fmt.Fprintln(&errs, line(err))
	}
	return code, out.String(), errs.String()
}

// site is a directory with a configuration, and a server for its list.
type site struct {
	dir, config string
	url         string
	pki         *pki
	mu          sync.Mutex
	list        []byte
}

func newSite(t *testing.T, p *pki) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), pki: p}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.list == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(s.list)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/ca.crl"
	require.NoError(t, p.write(s.dir))
	s.configure(t, map[string]any{"urls": []string{s.url}})
	return s
}

func (s *site) configure(t *testing.T, more map[string]any) {
	t.Helper()
	c := map[string]any{"issuers": []string{"ca.pem"}, "directory": "state", "polling-interval": 1, "backoff-interval": 1}
	for k, v := range more {
		c[k] = v
	}
	data, err := json.Marshal(c)
	require.NoError(t, err)
	s.config = filepath.Join(s.dir, "crld.json")
	require.NoError(t, os.WriteFile(s.config, data, 0o600))
}

func (s *site) serve(der []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = der
}

func (s *site) check(t *testing.T, name string) (int, string) {
	t.Helper()
	code, out, errs := program(t, "check", "-config", s.config, filepath.Join(s.dir, name))
	return code, out + errs
}

// start runs crld as a process of its own and returns the address it listens on.
func (s *site) start(t *testing.T) (cmd *exec.Cmd, address string) {
	t.Helper()
	exe, err := exec.LookPath("crld")
	require.NoError(t, err)
	cmd = exec.Command(exe, "run", "-config", s.config)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var log lockedBuffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	text, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "%s", &log)
	return cmd, strings.TrimSpace(strings.TrimPrefix(text, "listening on "))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestConductorAndRouter runs a conductor as a process, a router that syncs from
// it, and ends the conductor in good order.
func TestConductorAndRouter(t *testing.T) {
	p := newPKI(time.Now())
	conductor, router := newSite(t, p), newSite(t, p)
	conductor.configure(t, map[string]any{"urls": []string{conductor.url}, "listen": "127.0.0.1:0"})
	router.configure(t, map[string]any{"urls": []string{}})
	conductor.serve(p.list(1, "bad"))
	cmd, address := conductor.start(t)
	eventually(t, "the conductor fetches", func() bool { code, _ := conductor.check(t, "bad.pem"); return code == 3 })
	code, _ := router.check(t, "bad.pem")
	require.Equal(t, 4, code)
	code, out, errs := program(t, "sync", "-from", address, "-config", router.config)
	require.Zero(t, code, errs)
	require.Contains(t, out, "number 1: 1 entries, in date")
	code, text := router.check(t, "bad.pem")
	require.Equal(t, 3, code)
	require.Contains(t, text, "keyCompromise")

	// A forced fetch beside the running process, which shares the result.
	conductor.serve(p.list(2, "bad", "good"))
	code, _, errs = program(t, "fetch", "-config", conductor.config)
	require.Zero(t, code, errs)
	code, _, errs = program(t, "sync", "-from", address, "-config", router.config)
	require.Zero(t, code, errs)
	code, _ = router.check(t, "good.pem")
	require.Equal(t, 3, code)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	code, _, _ = program(t, "sync", "-from", address, "-config", router.config)
	require.Equal(t, 1, code)
	_, out, _ = program(t, "alarms", "-config", router.config)
	require.Contains(t, out, "crl.sync/"+address)
	code, _ = router.check(t, "good.pem")
	require.Equal(t, 3, code, "the last known good stays")
}

// TestKillWhilePublishing kills a process that publishes, again and again, at
// moments spread over its work. What was revoked stays revoked.
func TestKillWhilePublishing(t *testing.T) {
	p := newPKI(time.Now())
	s := newSite(t, p)
	s.serve(p.list(1, "bad"))
	code, _, errs := program(t, "fetch", "-config", s.config)
	require.Zero(t, code, errs)
	exe, err := exec.LookPath("crld")
	require.NoError(t, err)
	var took time.Duration
	killed := 0
	for n := range 40 {
		s.serve(p.list(int64(n+2), "bad", "held"))
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, exe, "fetch", "-config", s.config)
		begin := time.Now()
		require.NoError(t, cmd.Start())
		if n > 0 {
			// The first run says how long one takes.
			time.AfterFunc(took*time.Duration(n)/40, cancel)
		}
		err := cmd.Wait()
		cancel()
		if n == 0 {
			require.NoError(t, err)
			took = time.Since(begin)
		} else if err != nil {
			killed++
		}
		code, text := s.check(t, "bad.pem")
		require.Equal(t, 3, code, text)
		code, text = s.check(t, "good.pem")
		require.Equal(t, 0, code, text)
	}
	require.Greater(t, killed, 5)
	s.serve(p.list(100, "good"))
	code, _, errs = program(t, "fetch", "-config", s.config)
	require.Zero(t, code, errs)
	code, _ = s.check(t, "good.pem")
	require.Equal(t, 3, code)
	_, out, _ := program(t, "alarms", "-config", s.config)
	require.Equal(t, "no alarms\n", out)
}

func TestJSON(t *testing.T) {
	p := newPKI(time.Now())
	s := newSite(t, p)
	code, out, _ := program(t, "show", "-json", "-config", s.config)
	require.Zero(t, code)
	require.Equal(t, "[]\n", out)
	s.serve(p.list(7, "bad"))
	code, _, errs := program(t, "fetch", "-config", s.config)
	require.Zero(t, code, errs)
	_, out, _ = program(t, "show", "-json", "-config", s.config)
	var lists []struct {
		Issuer, Number, Source, State string
		Entries                       int
	}
	require.NoError(t, json.Unmarshal([]byte(out), &lists))
	require.Len(t, lists, 1)
	require.Equal(t, "7", lists[0].Number)
	require.Equal(t, s.url, lists[0].Source)
	s.serve(nil)
	code, _, _ = program(t, "fetch", "-config", s.config)
	require.Equal(t, 1, code)
	_, out, _ = program(t, "alarms", "-json", "-config", s.config)
	var alarms []struct{ ID, Severity, Subject, Text string }
	require.NoError(t, json.Unmarshal([]byte(out), &alarms))
	require.Len(t, alarms, 1)
	require.Equal(t, s.url, alarms[0].Subject)
	require.Contains(t, alarms[0].Text, "503")
	_, out, _ = program(t, "show", "-config", s.config)
	require.Contains(t, out, "503")
}

// write puts everything that scripts use into a directory.
func (p *pki) write(dir string) error {
	files := map[string][]byte{
		"ca.crl":      pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: p.list(1, "bad")}),
		"ca-2.crl":    p.list(2, "bad", "good"),
		"expired.crl": p.listAt(3, p.now.Add(-9*24*time.Hour), p.now.Add(-2*24*time.Hour), "bad"),
		"key.pem":     []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"ca.pem":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.ca.Raw}),
	}
	for name, cert := range p.certs {
		files[name+".pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (p *pki) list(number int64, revoked ...string) []byte {
	return p.listAt(number, p.now.Add(-time.Minute), p.now.Add(24*time.Hour), revoked...)
}

func (p *pki) listAt(number int64, this, next time.Time, revoked ...string) []byte {
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: this, NextUpdate: next}
	for _, name := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: p.certs[name].SerialNumber, RevocationTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ReasonCode: 1,
		})
	}
	return p.sign(l)
}
