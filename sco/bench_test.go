//go:build unix

package sco_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/internal/softtpm"
	"github.com/mooringlib/mooring/sco/internal/wire"
)

// The benchmark has three processes: this one is the conductor, one child is the
// server of bare handshakes, and one is the routers and the bare clients, in
// turns. So each server's CPU time is its own, and both are measured in the same
// moments of a machine that may be busy with other things.
const benchEnv = "SCO_BENCH_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(benchEnv); job != "" {
		run := benchChild
		if filepath.Base(job) == "bare.json" {
			run = benchBare
		}
		if err := run(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// benchJob is what the child needs to be the routers.
type benchJob struct {
	Kind, Addr, Bare, Token, Dir string
	Cert, Key                    []byte
}

// benchWorkers keep the conductor busy, as a fleet does.
const benchWorkers = 4

func (j *benchJob) signer() (sco.Signer, error) {
	if j.Key == nil {
		if j.Kind != "psk-only" {
			return sco.SelfSigned(), nil
		}
		return sco.NoDeviceKey(), nil
	}
	k, err := x509.ParsePKCS8PrivateKey(j.Key)
	if err != nil {
		return nil, err
	}
	if j.Cert == nil {
		return softtpm.New(k.(crypto.Signer))
	}
	cert, err := x509.ParseCertificate(j.Cert)
	if err != nil {
		return nil, err
	}
	return sco.DeviceID([]*x509.Certificate{cert}, k.(crypto.Signer))
}

// benchBare serves bare handshakes, and answers each line from standard input with
// its CPU time and the bytes so far.
func benchBare(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var j benchJob
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(j.Key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(j.Cert)
	if err != nil {
		return err
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ln := &countListener{Listener: raw}
	fmt.Println(ln.Addr())
	go bareServer(ln, &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{wire.ALPN},
		Certificates: []tls.Certificate{{Certificate: [][]byte{j.Cert}, PrivateKey: key, Leaf: leaf}}})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(int64(cpu()), ln.bytes.Load())
	}
	return in.Err()
}

// benchChild does, for each "N" from standard input, N onboardings and N bare
// handshakes, and answers with a line.
func benchChild(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var j benchJob
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	token, err := sco.ParseToken(j.Token)
	if err != nil {
		return err
	}
	// Worker 0 is the router; the same one each time, so all share its SSH
	// key.
	var dirs [benchWorkers]string
	for i := range dirs {
		dirs[i] = filepath.Join(j.Dir, strconv.Itoa(i))
	}
	in := bufio.NewScanner(os.Stdin)
	first := true
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return err
		}
		if first {
			signer, err := j.signer()
			if err != nil {
				return err
			}
			if _, err := sco.Onboard(context.Background(), sco.OnboardConfig{Dir: dirs[0], Token: token, Addresses: []string{j.Addr}, Signer: signer}); err != nil {
				return err
			}
			for _, d := range dirs[1:] {
				if err := os.CopyFS(d, os.DirFS(dirs[0])); err != nil {
					return err
				}
			}
			first = false
		}
		var left atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		errs := make([]error, benchWorkers)
		for i := range benchWorkers {
			wg.Go(func() {
				signer, err := j.signer()
				for err == nil && left.Add(-1) >= 0 {
					if err = bareDial(j.Bare); err == nil {
						_, err = sco.Onboard(context.Background(), sco.OnboardConfig{Dir: dirs[i], Token: token, Addresses: []string{j.Addr}, Signer: signer})
					}
				}
				errs[i] = err
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		fmt.Println("done")
	}
	return in.Err()
}

func bareDial(addr string) error {
	c, err := tls.Dial("tcp", addr, clientConfig())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(io.Discard, c)
	return err
}

// countListener counts the bytes of all its connections.
type countListener struct {
	net.Listener
	bytes atomic.Int64
}

type countConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (l *countListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countConn{c, &l.bytes}, nil
}

func (c *countConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (c *countConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

func listen(tb testing.TB) *countListener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	return &countListener{Listener: ln}
}

// bareServer does a TLS 1.3 handshake and nothing else.
func bareServer(ln net.Listener, cfg *tls.Config) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			tc := tls.Server(c, cfg)
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_ = tc.HandshakeContext(context.Background())
			_ = tc.Close()
		}()
	}
}

// cpu is this process's CPU time.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func pkcs8(tb testing.TB, k any) []byte {
	b, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(tb, err)
	return b
}

// BenchmarkServerCPU measures the conductor's CPU time per onboarding beside that
// of one bare TLS 1.3 handshake with the same RSA 2048 key. b.N counts rounds of
// 40 of each.
func BenchmarkServerCPU(b *testing.B) {
	maker := newAuthority(b, "maker")
	soft, err := softtpm.New(sharedRSA(b))
	require.NoError(b, err)
	devKey := ecKey(b, elliptic.P256())
	for _, c := range []struct {
		kind string
		mode sco.Mode
		job  benchJob
		ek   string
	}{
		{"psk-only", sco.ModePSKOnly, benchJob{}, ""},
		{"psk-only-certificate-ignored", sco.ModePSKOnly, benchJob{}, ""},
		{"weak", sco.ModeWeak, benchJob{}, ""},
		{"strong-devid-p256", sco.ModeStrong, benchJob{Key: pkcs8(b, devKey),
			Cert: maker.issue(b, devKey.Public(), func(c *x509.Certificate) { c.Subject.SerialNumber = "r-0" }).Raw}, ""},
		{"strong-devid-rsa", sco.ModeStrong, benchJob{Key: pkcs8(b, sharedRSA(b)),
			Cert: maker.issue(b, sharedRSA(b).Public(), func(c *x509.Certificate) { c.Subject.SerialNumber = "r-0" }).Raw}, ""},
		{"strong-tpm-rsa", sco.ModeStrong, benchJob{Key: pkcs8(b, sharedRSA(b))}, soft.EndorsementKey()},
		{"strong-tpm-ecc", sco.ModeStrong, benchJob{Key: pkcs8(b, devKey)}, must(softtpm.New(devKey)).EndorsementKey()},
	} {
		b.Run(c.kind, func(b *testing.B) {
			w := newWorld(b, withKey(sharedRSA(b)), withLimits(sco.Limits{Connections: 4096, PerPrefix: 4096, Rate: 1e9, Burst: 1e9}))
			w.change(func(s *sco.Settings) { s.DeviceIDRoots = maker.pool() })
			w.router("r", c.mode, withEK(c.ek))
			on := listen(b)
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- w.cond.Serve(ctx, on) }()
			s, dir := w.settings.Load(), b.TempDir()
			bare := startBenchChild(b, filepath.Join(dir, "bare.json"), &benchJob{Cert: s.Certificate.Raw, Key: pkcs8(b, s.Key)})
			job := c.job
			job.Kind, job.Addr, job.Bare, job.Token, job.Dir = c.kind, on.Addr().String(), bare(""), w.token("r").Reveal(), dir
			routers := startBenchChild(b, filepath.Join(dir, "routers.json"), &job)
			const batch = 40
			round := func() (ours, theirs float64, bytes int64) {
				var cpu0, cpu1, bytes0, bytes1 int64
				_, _ = fmt.Sscan(bare("cpu"), &cpu0, &bytes0)
				start := cpu()
				require.Equal(b, "done", routers(strconv.Itoa(batch)))
				ours = float64(cpu()-start) / batch / 1e3
				_, _ = fmt.Sscan(bare("cpu"), &cpu1, &bytes1)
				return ours, float64(cpu1-cpu0) / batch / 1e3, bytes1 - bytes0
			}
			round()
			on.bytes.Store(0)
			var ours, theirs []float64
			var bareBytes int64
			b.ResetTimer()
			for range b.N {
				o, t, n := round()
				ours, theirs, bareBytes = append(ours, o), append(theirs, t), bareBytes+n
			}
			b.StopTimer()
			b.ReportMetric(median(ours), "cpu-µs/onboarding")
			b.ReportMetric(median(theirs), "cpu-µs/handshake")
			b.ReportMetric(median(ours)/median(theirs), "ratio")
			b.ReportMetric(float64(on.bytes.Load())/float64(b.N*batch), "wire-B/onboarding")
			b.ReportMetric(float64(bareBytes)/float64(b.N*batch), "wire-B/handshake")
			b.ReportMetric(0, "ns/op")
			cancel()
			require.NoError(b, <-served)
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// startBenchChild returns a function that writes a line to the child, unless it
// is empty, and reads one.
func startBenchChild(b *testing.B, path string, job *benchJob) func(line string) string {
	b.Helper()
	raw, err := json.Marshal(job)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(path, raw, 0o600))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchEnv+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		require.NoError(b, cmd.Wait())
	})
	lines := bufio.NewScanner(out)
	return func(line string) string {
		if line != "" {
			_, err := fmt.Fprintln(in, line)
			require.NoError(b, err)
		}
		require.True(b, lines.Scan(), "the child answers")
		return lines.Text()
	}
}
