package tpmwrap_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

// states is a system whose signed policy has several boot states.
type states struct {
	tpm    *tpmsim.TPM
	vendor *ecdsa.PrivateKey
	file   string
	cfg    tpmwrap.Config
}

func newStates(t *testing.T) *states {
	vendor, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s := &states{tpm: tpmsim.New(t), vendor: vendor, file: filepath.Join(t.TempDir(), "policy")}
	s.cfg = tpmwrap.Config{Open: openerOf(s.tpm), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{
		Vendor: vendor.Public(), Reference: "r", Document: func() ([]byte, error) { return os.ReadFile(s.file) },
	}}
	return s
}

func (s *states) state(t *testing.T, number uint64, bank pcrpolicy.Bank, pcrs ...uint) pcrpolicy.Alternative {
	t.Helper()
	state, err := tpmwrap.State(t.Context(), s.tpm, bank, pcrs)
	require.NoError(t, err)
	state.Number = number
	return state
}

func (s *states) sign(t *testing.T, all ...pcrpolicy.Alternative) []byte {
	t.Helper()
	doc, err := pcrpolicy.Make("r", 0, all[0])
	require.NoError(t, err)
	doc.Alternatives = all
	require.NoError(t, doc.Sign(s.vendor))
	data, err := doc.Marshal()
	require.NoError(t, err)
	return data
}

func TestCapHoldsForEveryState(t *testing.T) {
	for name, pcrs := range map[string][]uint{"registers apart": {0, 2}, "one in common": {0, 7}} {
		t.Run(name, func(t *testing.T) {
			s := newStates(t)
			all := []pcrpolicy.Alternative{
				s.state(t, 17, pcrpolicy.SHA256, 4, 7),
				s.state(t, 16, pcrpolicy.SHA256, pcrs...),
				s.state(t, 18, pcrpolicy.SHA384, 4, 7),
			}
			require.NoError(t, os.WriteFile(s.file, s.sign(t, all...), 0o600))
			w := sealed(t, s.cfg)
			wrapped, err := w.Wrap(t.Context(), key, binding)
			require.NoError(t, err)
			require.NoError(t, unwrap(t, w, wrapped))
			require.NoError(t, w.Cap(t.Context()))
			require.Equal(t, cause.Capped, cause.Of(unwrap(t, w, wrapped)))
			// Somebody who has the disk keeps one state only.
			for _, a := range all {
				require.NoError(t, os.WriteFile(s.file, s.sign(t, a), 0o600))
				require.Equal(t, cause.Capped, cause.Of(unwrap(t, sealed(t, s.cfg), wrapped)), "%s %v", a.Bank, a.PCRs[0].Index)
			}
			require.NoError(t, w.Cap(t.Context()), "once more")
			require.Equal(t, cause.Capped, cause.Of(unwrap(t, w, wrapped)), "and it is still only the cap")
		})
	}
}

func TestPolicyThatCannotBeCappedIsRefused(t *testing.T) {
	s := newStates(t)
	good, bad := s.state(t, 16, pcrpolicy.SHA256, 7), s.state(t, 17, pcrpolicy.SHA256, 16, 23)
	data := s.sign(t, good, bad)
	w := sealed(t, s.cfg)
	err := w.InstallPolicy(t.Context(), s.file, data)
	require.Equal(t, cause.PolicyInvalid, cause.Of(err))
	require.ErrorContains(t, err, "boot state 2")
	require.NoFileExists(t, s.file)
	require.NoError(t, os.WriteFile(s.file, data, 0o600))
	_, err = w.Wrap(t.Context(), key, binding)
	require.Equal(t, cause.PolicyInvalid, cause.Of(err))
	problems := w.Check(t.Context())
	require.Len(t, problems, 1)
	require.Equal(t, cause.PolicyInvalid, cause.Of(problems[0]))
	s.cfg.Policy.NoCap = true
	require.NoError(t, sealed(t, s.cfg).InstallPolicy(t.Context(), s.file, data))
}

// TestRevokeKeepsTheRunningState has a policy for the running release and for
// the next, which this machine never started.
func TestRevokeKeepsTheRunningState(t *testing.T) {
	s := newStates(t)
	running := s.state(t, 16, pcrpolicy.SHA256, 7)
	next := s.state(t, 17, pcrpolicy.SHA256, 7)
	next.PCRs[0].Value = make(pcrpolicy.Hex, 32)
	next.PCRs[0].Value[0] = 1
	require.NoError(t, os.WriteFile(s.file, s.sign(t, next, running), 0o600))
	w := sealed(t, s.cfg)
	wrapped, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	require.NoError(t, unwrap(t, w, wrapped))
	require.ErrorIs(t, w.Revoke(t.Context(), 17), tpmwrap.ErrNotProven)
	require.NoError(t, w.Revoke(t.Context(), 16))
	require.NoError(t, w.Cap(t.Context()))
	require.ErrorIs(t, sealed(t, s.cfg).Revoke(t.Context(), 17), tpmwrap.ErrNotProven, "a service that was started again")
	again := sealed(t, s.cfg)
	require.NoError(t, again.Cap(t.Context()))
	require.ErrorIs(t, again.Revoke(t.Context(), 17), tpmwrap.ErrNotProven, "capping proves nothing")
	require.NoError(t, s.tpm.Reset())
	require.NoError(t, unwrap(t, sealed(t, s.cfg), wrapped))
}
