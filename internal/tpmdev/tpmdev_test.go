package tpmdev_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmdev"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func TestSimulatorKeepsItsStateAndIsShared(t *testing.T) {
	peer.Need(t, "swtpm")
	dir := filepath.Join(t.TempDir(), "tpm")
	name := func() []byte {
		tpm, err := tpmdev.Open("simulator", dir)
		require.NoError(t, err)
		defer tpm.Close()
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
		require.NoError(t, err)
		return rsp.Name.Buffer
	}
	first := name()
	done := make(chan []byte)
	for range 2 {
		go func() { done <- name() }()
	}
	require.Equal(t, first, <-done)
	require.Equal(t, first, <-done)
}

func TestOpenBySocket(t *testing.T) {
	sim := tpmsim.New(t)
	tpm, err := tpmdev.Open(sim.Spec(), "")
	require.NoError(t, err)
	defer tpm.Close()
	_, err = tpm2.GetRandom{BytesRequested: 8}.Execute(tpm)
	require.NoError(t, err)
}

func TestBadSpecifications(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for spec, want := range map[string]string{
		"":                   "is none of",
		"tpm":                "is none of",
		"swtpm:/nonexistent": "no such file",
		"swtpm:" + file:      "is not a socket",
		"/dev/missing":       `open "/dev/missing"`,
		"simulator":          "no directory",
	} {
		_, err := tpmdev.Open(spec, "")
		require.ErrorContains(t, err, want, "spec %q", spec)
	}
}

func TestHostileSocketIsBounded(t *testing.T) {
	dir, err := os.MkdirTemp("", "m")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for name, response := range map[string]string{
		"huge":  "\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00",
		"small": "\x80\x01\x00\x00\x00\x01\x00\x00\x00\x00",
		"cut":   "\x80\x01\x00\x00\x00\x20\x00\x00\x00\x00abc",
		"empty": "",
	} {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			buf := make([]byte, 64)
			_, _ = conn.Read(buf)
			_, _ = conn.Write([]byte(response))
		}()
		tpm, err := tpmdev.Open("swtpm:"+path, "")
		require.NoError(t, err)
		_, err = tpm2.GetRandom{BytesRequested: 8}.Execute(tpm)
		require.Error(t, err, name)
		require.NoError(t, l.Close())
	}
}
