package list_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/list"
)

// childEnv makes the test binary do one operation on one file and print its
// peak memory, which must be measured in a process of its own.
const childEnv = "CRL_BENCH_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		child(job)
		return
	}
	os.Exit(m.Run())
}

func child(job string) {
	op, path, _ := strings.Cut(job, ":")
	ca, err := os.ReadFile(path + ".ca")
	check(err)
	cert, err := x509.ParseCertificate(ca)
	check(err)
	switch op {
	case "ours":
		_, _, err = ours(path, cert, true)
	case "x509":
		err = stdlib(path, cert)
	case "none":
	}
	check(err)
	data, err := os.ReadFile("/proc/self/status")
	check(err)
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Println(strings.Fields(line)[1])
		}
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// ours reads a list as the manager does: spool, verify, interpret, sort. It
// returns how long it took without and with sorting.
func ours(path string, ca *x509.Certificate, spool bool) (read, all time.Duration, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	lim := list.Limits{Bytes: 1 << 31, Entries: 1 << 26}
	var s *list.Spooled
	start := time.Now()
	if spool {
		out, err := os.Create(path + ".spool")
		if err != nil {
			return 0, 0, err
		}
		defer os.Remove(out.Name())
		defer out.Close()
		s, err = list.Spool(context.Background(), out, f, lim)
		if err != nil {
			return 0, 0, err
		}
	} else {
		info, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		if s, err = list.Reread(context.Background(), f, info.Size(), lim); err != nil {
			return 0, 0, err
		}
	}
	v, err := s.Verify(ca.PublicKey)
	if err != nil {
		return 0, 0, err
	}
	verified := time.Since(start)
	if !spool {
		start = time.Now()
		if err := v.Parse(context.Background()); err != nil {
			return 0, 0, err
		}
		read = verified + time.Since(start)
	}
	start = time.Now()
	_, err = v.Entries(context.Background())
	return read, verified + time.Since(start), err
}

func stdlib(path string, ca *x509.Certificate) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	l, err := x509.ParseRevocationList(data)
	if err != nil {
		return err
	}
	return l.CheckSignatureFrom(ca)
}

func hashOnly(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(sha256.New(), struct{ io.Reader }{f}, make([]byte, 256<<10))
	return err
}

func peak(b *testing.B, op, path string) float64 {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+op+":"+path)
	out, err := cmd.Output()
	require.NoError(b, err)
	kb, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(b, err)
	return float64(kb) / 1024
}

// BenchmarkIngest compares reading a list with SHA-256 of the same bytes, with
// crypto/x509 and with openssl, all in one run and in turns. The figures are the
// least of all rounds, which other load disturbs least. Ten million entries take
// minutes and MOORING_BENCH_LARGE=1.
func BenchmarkIngest(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000, 10_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			large := n > 1_000_000
			if large && os.Getenv("MOORING_BENCH_LARGE") == "" {
				b.Skip("MOORING_BENCH_LARGE=1 is not set")
			}
			ingest(b, n, large)
		})
	}
}

func ingest(b *testing.B, n int, large bool) {
	ca := crltest.NewCA(b, "CA", crltest.Options{Key: crltest.RSAKey(b, 2048)})
	dir, err := os.MkdirTemp("/dev/shm", "crl-bench-")
	if err != nil {
		dir = b.TempDir()
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "crl")
	f, err := os.Create(path)
	require.NoError(b, err)
	ca.Stream(b, f, 1, crltest.UpTo(n), n)
	size, err := f.Seek(0, io.SeekCurrent)
	require.NoError(b, err)
	require.NoError(b, f.Close())
	require.NoError(b, os.WriteFile(path+".ca", ca.Cert.Raw, 0o600))
	pemCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
	require.NoError(b, os.WriteFile(path+".pem", pemCA, 0o600))
	openssl, _ := exec.LookPath("openssl")
	best := make(map[string]time.Duration)
	note := func(what string, d time.Duration) {
		if have, ok := best[what]; !ok || d < have {
			best[what] = d
		}
	}
	timed := func(what string, op func() error) {
		runtime.GC()
		start := time.Now()
		require.NoError(b, op())
		note(what, time.Since(start))
	}
	rounds := 12
	if large {
		rounds = 4
	}
	for round := range rounds {
		timed("sha256", func() error { return hashOnly(path) })
		runtime.GC()
		read, all, err := ours(path, ca.Cert, false)
		require.NoError(b, err)
		note("verify+parse", read)
		note("verify+parse+sort", all)
		runtime.GC()
		_, all, err = ours(path, ca.Cert, true)
		require.NoError(b, err)
		note("with-spooling", all)
		if round < 2 && !large {
			timed("x509", func() error { return stdlib(path, ca.Cert) })
		}
		if openssl != "" && (round == 0 || round == 1 && !large) {
			timed("openssl", func() error {
				return exec.Command(openssl, "crl", "-inform", "DER", "-in", path, "-noout", "-verify", "-CAfile", path+".pem").Run()
			})
		}
	}
	for what, d := range best {
		b.ReportMetric(d.Seconds()*1000, what+"-ms")
	}
	ratio := func(what, to string) {
		if best[what] > 0 && best[to] > 0 {
			b.ReportMetric(best[what].Seconds()/best[to].Seconds(), what+"/"+to)
		}
	}
	ratio("verify+parse", "sha256")
	ratio("verify+parse+sort", "sha256")
	ratio("x509", "with-spooling")
	ratio("openssl", "with-spooling")
	b.ReportMetric(float64(size)/(1<<20), "list-MiB")
	b.ReportMetric(peak(b, "ours", path), "peak-MiB")
	b.ReportMetric(peak(b, "none", path), "idle-MiB")
	if !large {
		b.ReportMetric(peak(b, "x509", path), "x509-peak-MiB")
	}
}
