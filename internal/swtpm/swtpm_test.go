package swtpm_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/swtpm"
)

func TestStateSurvivesRestart(t *testing.T) {
	peer.Need(t, "swtpm")
	dir := t.TempDir()
	primary := func() []byte {
		p, err := swtpm.Start(context.Background(), swtpm.Config{StateDir: dir})
		require.NoError(t, err)
		defer p.Stop()
		tpm, err := linuxudstpm.Open(p.Socket())
		require.NoError(t, err)
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
		require.NoError(t, err)
		_, err = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(tpm)
		require.NoError(t, err)
		require.NoError(t, p.Stop())
		require.NoFileExists(t, p.Socket())
		return rsp.Name.Buffer
	}
	require.Equal(t, primary(), primary(), "the same seed makes the same primary key")
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	peer.Need(t, "swtpm")
	ctx := context.Background()
	_, err := swtpm.Start(ctx, swtpm.Config{StateDir: filepath.Join(t.TempDir(), "missing")})
	require.ErrorIs(t, err, os.ErrNotExist)

	_, err = swtpm.Start(ctx, swtpm.Config{StateDir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "missing", "s")})
	require.ErrorContains(t, err, "ended at once")
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := swtpm.Start(context.Background(), swtpm.Config{StateDir: t.TempDir()})
	require.ErrorIs(t, err, swtpm.ErrNotInstalled)
}
