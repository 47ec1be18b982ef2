package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/sco"
)

// patience is how long tests wait for what must happen.
const patience = 60 * time.Second

// asMain makes the test binary be the program, with the race detector when the
// tests have it.
const asMain = "CONDUCTOR_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	defer func() { _ = os.RemoveAll(buildDir) }()
	testscript.Main(m, map[string]func(){"conductor": main})
}

var buildDir string

// routerProgram builds examples/router once.
var routerProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		return "", err
	}
	buildDir = dir
	path := filepath.Join(dir, "router")
	out, err := exec.Command("go", "build", "-o", path, "../router").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// buffer is written to by a process while a test reads it.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// wait returns the first match of the expression's group.
func (b *buffer) wait(t *testing.T, expr string, exited <-chan struct{}) string {
	t.Helper()
	re := regexp.MustCompile(expr)
	deadline := time.After(patience)
	for {
		b.mu.Lock()
		m := re.FindStringSubmatch(b.b.String())
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		if m != nil {
			return m[len(m)-1]
		}
		select {
		case <-changed:
		case <-exited:
			require.FailNow(t, "process ended", "before it said %q: %s", expr, b.String())
		case <-deadline:
			require.FailNow(t, "process does not say", "%q: %s", expr, b.String())
		}
	}
}

// proc is a process that runs beside the test.
type proc struct {
	cmd    *exec.Cmd
	stderr buffer
	exited chan struct{}
	err    error
}

func start(t *testing.T, cmd *exec.Cmd) *proc {
	t.Helper()
	p := &proc{cmd: cmd, exited: make(chan struct{})}
	cmd.Stderr = &p.stderr
	require.NoError(t, cmd.Start())
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(cmd.Path), p.stderr.String())
		}
	})
	return p
}

func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop asks the process to end and expects success.
func (p *proc) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.FailNow(t, "process does not stop", "%s", p.stderr.String())
	}
	require.NoError(t, p.err, "%s", p.stderr.String())
	require.NotContains(t, p.stderr.String(), "DATA RACE")
}

// site is a conductor's directory and, while it serves, its process.
type site struct {
	t          *testing.T
	dir        string
	serve      *proc
	onboarding string
	ssh        string
}

func conductorCmd(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "conductor")}
	s.must("init", "-host", "127.0.0.1")
	return s
}

// call runs a conductor command in this process.
func (s *site) call(args ...string) (stdout string, err error) {
	verbs := 1
	if args[0] == "router" || args[0] == "devid" {
		verbs = 2
	}
	full := append(append(append([]string(nil), args[:verbs]...), "-dir", s.dir), args[verbs:]...)
	var out, stderr bytes.Buffer
	err = run(context.Background(), full, strings.NewReader(""), &out, &stderr)
	return out.String(), err
}

func (s *site) must(args ...string) string {
	s.t.Helper()
	out, err := s.call(args...)
	require.NoError(s.t, err)
	return out
}

// start serves; after the first time on the same ports.
func (s *site) start(extra ...string) {
	s.t.Helper()
	if s.onboarding == "" {
		ip := ownLoopback()
		s.onboarding, s.ssh = ip+":0", ip+":0"
	}
	s.serve = start(s.t, conductorCmd(append([]string{"serve", "-dir", s.dir, "-onboarding", s.onboarding, "-ssh", s.ssh}, extra...)...))
	s.onboarding = s.serve.stderr.wait(s.t, `port=onboarding address=(\S+)`, s.serve.exited)
	s.ssh = s.serve.stderr.wait(s.t, `port=ssh address=(\S+)`, s.serve.exited)
}

func (s *site) token(router string) string {
	s.t.Helper()
	return s.must("token", "-router", router, "-conductor", s.onboarding)
}

func (s *site) node(router string) (*sco.Node, string) {
	s.t.Helper()
	// The secret reads as a placeholder, which is not a secret's form.
	var r struct {
		Secret string `json:"pre-shared-secret"`
		Nodes  []sco.Node
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.must("router", "show", "-name", router, "-json")), &r))
	require.Len(s.t, r.Nodes, 1)
	return &r.Nodes[0], r.Secret
}

func (s *site) waitNode(router, what string, ok func(n *sco.Node) bool) *sco.Node {
	s.t.Helper()
	var n *sco.Node
	require.Eventually(s.t, func() bool {
		n, _ = s.node(router)
		return ok(n)
	}, patience, 20*time.Millisecond, what)
	return n
}

// device is a router's directory and how it proves itself.
type device struct {
	t     *testing.T
	dir   string
	asset string
	flags []string
	env   []string
}

func newDevice(t *testing.T, asset string, flags ...string) *device {
	t.Helper()
	return &device{t: t, dir: filepath.Join(t.TempDir(), "router"), asset: asset, flags: flags}
}

func (d *device) cmd(args ...string) *exec.Cmd {
	d.t.Helper()
	path, err := routerProgram()
	require.NoError(d.t, err)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), d.env...)
	return cmd
}

func (d *device) onboardCmd(token string) *exec.Cmd {
	cmd := d.cmd(append([]string{"onboard", "-dir", d.dir, "-token", "-", "-asset-id", d.asset}, d.flags...)...)
	cmd.Stdin = strings.NewReader(token)
	return cmd
}

func (d *device) onboard(token string) (string, error) {
	out, err := d.onboardCmd(token).CombinedOutput()
	return string(out), err
}

func (d *device) mustOnboard(token string) {
	d.t.Helper()
	out, err := d.onboard(token)
	require.NoError(d.t, err, out)
}

func (d *device) run(flags ...string) *proc {
	return start(d.t, d.cmd(append([]string{"run", "-dir", d.dir}, flags...)...))
}

// state asks "router status".
func (d *device) state() (state string, initialized bool) {
	d.t.Helper()
	out, err := d.cmd("status", "-dir", d.dir, "-json").Output()
	require.NoError(d.t, err)
	var s struct {
		State       string
		Initialized bool
	}
	require.NoError(d.t, json.Unmarshal(out, &s))
	return s.State, s.Initialized
}

// echo sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// exchange tries until a connection to addr brings back what it was given.
func exchange(t *testing.T, addr string) {
	t.Helper()
	want := bytes.Repeat([]byte("mooring"), 10_000)
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		go func() {
			_, _ = c.Write(want)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		return err == nil && bytes.Equal(got, want)
	}, patience, 20*time.Millisecond, "data comes back through %s", addr)
}

// ownLoopback returns a loopback address that nothing else uses, so that a port
// on it stays free while nobody listens.
func ownLoopback() string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("127.%d.%d.%d", 1+b[0]%254, b[1], 1+b[2]%254)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", ownLoopback()+":0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func needPeer(t *testing.T, name string) string {
	t.Helper()
	return peer.Need(t, name)
}
