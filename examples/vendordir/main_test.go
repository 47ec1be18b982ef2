package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

const roleEnv = "MOORING_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "vendordir" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"vendordir": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// process is a directory that serves, as a process of its own.
type process struct {
	url string
	cmd *exec.Cmd
}

func serveProcess(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, append([]string{"serve", "-dir", dir}, args...)...)
	cmd.Env = append(os.Environ(), roleEnv+"=vendordir")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	url, ok := strings.CutSuffix(strings.TrimPrefix(strings.TrimSpace(line), "serving: "), "/certificates/SERIAL.crt")
	require.True(t, ok, line)
	return &process{url, cmd}
}

// invoke runs the program inside the test.
func invoke(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	err := run(t.Context(), args, strings.NewReader(""), &out, &errs)
	status = exitStatus(err, &errs)
	return status, out.String(), errs.String()
}

// initialize makes a directory and returns what init tells.
func initialize(t *testing.T) (dir string, told map[string]string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "directory")
	status, out, errs := invoke(t, "init", "-dir", dir, "-listen", "127.0.0.1:0", "-json")
	require.Zero(t, status, errs)
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	return dir, told
}

func get(t *testing.T, caPEM, url string) (int, string) {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(caPEM)))
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	res, err := c.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

func TestPublishFetchRestart(t *testing.T) {
	openssl := peer.Need(t, "openssl")
	dir, told := initialize(t)
	work := t.TempDir()
	shell := func(args ...string) {
		cmd := exec.Command(openssl, args...)
		cmd.Dir = work
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	for _, n := range []string{"1", "2", "3"} {
		shell("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=SN"+n, "-keyout", n+".key", "-out", n+".crt", "-days", "36500")
	}
	shell("pkey", "-in", "3.key", "-pubout", "-out", "3.pub")
	p := serveProcess(t, dir)
	publish := func(serial string, args ...string) (int, string) {
		status, out, errs := invoke(t, append([]string{"publish", "-url", p.url, "-token", told["token"], "-serial", serial}, args...)...)
		return status, out + errs
	}
	status, out := publish("SN1", "-cert", filepath.Join(work, "1.crt"))
	require.Zero(t, status, out)
	require.Contains(t, out, "published: SN1")
	status, out = publish("SN3", "-public-key", filepath.Join(work, "3.pub"))
	require.Zero(t, status, out)

	// What is published stays, also through a kill.
	status, out = publish("SN1", "-cert", filepath.Join(work, "2.crt"))
	require.Equal(t, 1, status)
	require.Contains(t, out, "give -replace")
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	p = serveProcess(t, dir, "-listen", "127.0.0.1:0")
	code, body := get(t, told["ca"], p.url+"/certificates/SN1.crt")
	require.Equal(t, 200, code)
	want, err := os.ReadFile(filepath.Join(work, "1.crt"))
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(want)), strings.TrimSpace(body))
	code, wrapped := get(t, told["ca"], p.url+"/certificates/SN3.crt")
	require.Equal(t, 200, code)
	code, _ = get(t, told["ca"], p.url+"/certificates/SN4.crt")
	require.Equal(t, 404, code)

	// A configuration that is encrypted to the wrapped certificate is opened
	// with the raw key alone.
	require.NoError(t, os.WriteFile(filepath.Join(work, "wrapped.crt"), []byte(wrapped), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(work, "cfg"), []byte("hostname SN3\n"), 0o600))
	shell("cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", "cfg", "-outform", "PEM", "-out", "enc", "wrapped.crt")
	shell("cms", "-decrypt", "-binary", "-in", "enc", "-inform", "PEM", "-inkey", "3.key", "-recip", "wrapped.crt", "-out", "opened")
	opened, err := os.ReadFile(filepath.Join(work, "opened"))
	require.NoError(t, err)
	require.Equal(t, "hostname SN3\n", string(opened))

	// The explicit act, and its record.
	sha := fingerprintOf(t, body)
	status, out = publish("SN1", "-cert", filepath.Join(work, "2.crt"), "-replace", sha, "-reason", "board repaired")
	require.Zero(t, status, out)
	audit, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
	require.NoError(t, err)
	require.Contains(t, string(audit), `"board repaired"`)
	require.Contains(t, string(audit), `"permitted":false`)
	require.NotContains(t, string(audit), told["token"])
	settings, err := os.ReadFile(filepath.Join(dir, settingsFile))
	require.NoError(t, err)
	require.NotContains(t, string(settings), strings.Split(told["token"], ".")[1], "only the hash is kept")

	// A second process doesn't get at the store.
	status, _, errs := invoke(t, "serve", "-dir", dir, "-listen", "127.0.0.1:0")
	require.Equal(t, 1, status)
	require.Contains(t, errs, "another process")

	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	err = p.cmd.Wait()
	var exit *exec.ExitError
	require.False(t, errors.As(err, &exit), "SIGTERM is a good end: %v", err)
}

func fingerprintOf(t *testing.T, certPEM string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c")
	require.NoError(t, os.WriteFile(path, []byte(certPEM), 0o600))
	out, err := exec.Command(peer.Need(t, "openssl"), "x509", "-in", path, "-noout", "-fingerprint", "-sha256").Output()
	require.NoError(t, err)
	_, hex, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
	return strings.ToLower(strings.ReplaceAll(hex, ":", ""))
}

func TestWgetOfTheAppendix(t *testing.T) {
	wget := peer.Need(t, "wget")
	dir, told := initialize(t)
	p := serveProcess(t, dir)
	cert := filepath.Join(dir, "wrap.crt") // any certificate will do
	status, _, errs := invoke(t, "publish", "-url", p.url, "-token", told["token"], "-serial", "SN19842256", "-cert", cert)
	require.Zero(t, status, errs)
	cmd := exec.Command(wget, "-q", "--ca-certificate="+told["ca_file"], p.url+"/certificates/SN19842256.crt")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	got, err := os.ReadFile(filepath.Join(cmd.Dir, "SN19842256.crt"))
	require.NoError(t, err)
	block, _ := pem.Decode(got)
	require.NotNil(t, block)
}

func TestPublisherKnowsTheDirectory(t *testing.T) {
	dir, told := initialize(t)
	_, other := initialize(t)
	p := serveProcess(t, dir)
	cert := filepath.Join(dir, "wrap.crt")
	status, _, errs := invoke(t, "publish", "-url", p.url, "-token", other["token"], "-serial", "SN1", "-cert", cert)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "not the directory that the token is for")
	status, _, errs = invoke(t, "publish", "-url", p.url, "-token", other["token"], "-serial", "SN1", "-cert", cert, "-ca", told["ca_file"])
	require.Equal(t, 1, status)
	require.Contains(t, errs, "the token is not accepted")
	audit, err := os.ReadFile(filepath.Join(dir, auditFile))
	require.NoError(t, err)
	require.Empty(t, audit, "anybody could fill it")
	strangers, err := os.ReadFile(filepath.Join(dir, strangersFile))
	require.NoError(t, err)
	require.Contains(t, string(strangers), "SN1")
	status, _, errs = invoke(t, "publish", "-url", p.url, "-token", told["token"], "-serial", "SN1", "-cert", cert, "-ca", other["ca_file"])
	require.Equal(t, 1, status)
	require.Contains(t, errs, "certificate")
	require.NotContains(t, errs, told["token"])
}
