package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

func TestStoryForPeople(t *testing.T) {
	peer.Need(t, "swtpm")
	var out, errOut bytes.Buffer
	require.NoError(t, run(context.Background(), nil, &out, &errOut), "%s", out.String())
	for i, s := range story {
		require.Contains(t, out.String(), fmt.Sprintf("%2d. %s", i+1, s.title))
	}
	require.Contains(t, out.String(), fmt.Sprintf("All %d steps done", len(story)))
	require.Empty(t, errOut.String())
}

func TestStoryForMachines(t *testing.T) {
	peer.Need(t, "swtpm")
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), []string{"-json"}, &out, &out), "%s", out.String())
	var got map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.JSONEq(t, "true", string(got["ok"]))
	for _, s := range story {
		var r struct{ OK bool }
		require.NoError(t, json.Unmarshal(got[s.name], &r), s.name)
		require.True(t, r.OK, s.name)
	}
	require.Len(t, got, len(story)+1)
	require.NotContains(t, out.String(), "eyJ", "a token is never shown")
}

func TestFailureIsToldAndCounts(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // No swtpm.
	if len(tpmsim.Backends()) > 0 {
		t.Skip("the in-process simulator is always there")
	}
	var out bytes.Buffer
	require.ErrorIs(t, run(context.Background(), nil, &out, &out), errReported)
	require.Contains(t, out.String(), "FAILED: no TPM simulator")

	out.Reset()
	require.ErrorIs(t, run(context.Background(), []string{"-json"}, &out, &out), errReported)
	var got struct {
		OK      bool
		PowerOn struct{ Error string } `json:"power-on"`
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.False(t, got.OK)
	require.Contains(t, got.PowerOn.Error, "no TPM simulator")
}

func TestBadArguments(t *testing.T) {
	var out, errOut bytes.Buffer
	require.ErrorContains(t, run(context.Background(), []string{"surprise"}, &out, &errOut), "takes no arguments")
	require.Error(t, run(context.Background(), []string{"-surprise"}, &out, &errOut))
	require.ErrorIs(t, run(context.Background(), []string{"-h"}, &out, &errOut), flag.ErrHelp)
	require.Contains(t, errOut.String(), "Usage: quickstart")
	require.Empty(t, out.String())
}
