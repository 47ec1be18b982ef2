package tpmwrap_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/integrity/cause"
	"github.com/mooringlib/mooring/integrity/pcrpolicy"
	"github.com/mooringlib/mooring/integrity/tpmwrap"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/tpmsim"
)

var key, binding = bytes.Repeat([]byte{0xa7}, 32), bytes.Repeat([]byte{0x31}, 32)

func sealed(t *testing.T, cfg tpmwrap.Config) *tpmwrap.Sealed {
	t.Helper()
	w, err := tpmwrap.NewSealed(cfg)
	require.NoError(t, err)
	return w
}

func unwrap(t *testing.T, w *tpmwrap.Sealed, wrapped []byte) error {
	t.Helper()
	got := make([]byte, 32)
	_, err := w.Unwrap(t.Context(), wrapped, binding, got)
	if err == nil {
		require.Equal(t, key, got)
	} else {
		require.Equal(t, make([]byte, 32), got, "no key after an error")
	}
	return err
}

func extend(t *testing.T, tpm transport.TPM, pcr uint) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(tpm)
	require.NoError(t, err)
}

func TestCapWithholdsTheKeyUntilRestart(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		cfg := tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{PCRs: []uint{4, 7, 12, 23}}}
		w := sealed(t, cfg)
		wrapped, err := w.Wrap(t.Context(), key, binding)
		require.NoError(t, err)
		require.NoError(t, unwrap(t, w, wrapped))
		require.NoError(t, w.Cap(t.Context()))
		require.Equal(t, cause.Capped, cause.Of(unwrap(t, w, wrapped)))
		_, err = tpm2.PCRReset{PCRHandle: tpm2.AuthHandle{Handle: 12, Auth: tpm2.PasswordAuth(nil)}}.Execute(tpm)
		require.Error(t, err, "the register that was chosen cannot be reset")
		require.NoError(t, tpm.Reset())
		require.NoError(t, unwrap(t, sealed(t, cfg), wrapped))
		// A process that did not unwrap can cap as well.
		require.NoError(t, sealed(t, cfg).Cap(t.Context()))
		require.Equal(t, cause.Capped, cause.Of(unwrap(t, w, wrapped)))
		require.NoError(t, tpm.Reset())
		extend(t, tpm, 4)
		extend(t, tpm, 23)
		err = unwrap(t, w, wrapped)
		var coded *cause.Error
		require.ErrorAs(t, err, &coded)
		require.Equal(t, []uint{4, 23}, coded.PCRs, "every changed register is named")
	})
}

func TestObjectObeysNothingButItsPolicy(t *testing.T) {
	tpm := tpmsim.New(t)
	w := sealed(t, tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{PCRs: []uint{7}}})
	var loaded []byte
	tpm.Wire(func(cmd, _ []byte) {
		if len(cmd) > 10 && bytes.Equal(cmd[6:10], []byte{0, 0, 1, 0x57}) {
			loaded = bytes.Clone(cmd)
		}
	})
	wrapped, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	require.NoError(t, unwrap(t, w, wrapped))
	require.NotNil(t, loaded, "the object was loaded")
	// Somebody who has the TPM loads the same object and tries a password.
	rsp, err := tpm.Send(loaded)
	require.NoError(t, err)
	handle := tpm2.TPMHandle(uint32(rsp[10])<<24 | uint32(rsp[11])<<16 | uint32(rsp[12])<<8 | uint32(rsp[13]))
	pub, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(tpm)
	require.NoError(t, err)
	for _, auth := range []tpm2.Session{tpm2.PasswordAuth(nil), tpm2.HMAC(tpm2.TPMAlgSHA256, 16)} {
		_, err = tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: handle, Name: pub.Name, Auth: auth}}.Execute(tpm)
		require.Error(t, err)
	}
	contents, err := pub.OutPublic.Contents()
	require.NoError(t, err)
	require.True(t, contents.ObjectAttributes.NoDA)
	require.False(t, contents.ObjectAttributes.UserWithAuth)
}

func TestWorksWhileTheTPMIsInLockout(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		w := sealed(t, tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256})
		wrapped, err := w.Wrap(t.Context(), key, binding)
		require.NoError(t, err)
		victim, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")},
				Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("data")}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true},
				Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
					Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
				}),
			}),
		}.Execute(tpm)
		require.NoError(t, err)
		for range 100 {
			_, err = tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: victim.ObjectHandle, Name: victim.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))}}.Execute(tpm)
			if errors.Is(err, tpm2.TPMRCLockout) {
				break
			}
		}
		require.ErrorIs(t, err, tpm2.TPMRCLockout)
		_, err = tpm2.FlushContext{FlushHandle: victim.ObjectHandle}.Execute(tpm)
		require.NoError(t, err)
		require.NoError(t, unwrap(t, w, wrapped))
	})
}

// hung is a TPM that stops to answer after some commands.
type hung struct {
	transport.TPM
	left    int
	release chan struct{}
}

func (h *hung) Send(cmd []byte) ([]byte, error) {
	if h.left--; h.left < 0 {
		<-h.release
		return nil, errors.New("released")
	}
	return h.TPM.Send(cmd)
}
func (h *hung) Close() error { return nil }

func TestTPMThatDoesNotAnswerIsATimeout(t *testing.T) {
	tpm := tpmsim.New(t)
	cfg := tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256}
	wrapped, err := sealed(t, cfg).Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	h := &hung{TPM: tpm, left: 3, release: make(chan struct{})}
	defer close(h.release)
	cfg.Timeout = 300 * time.Millisecond
	cfg.Open = func(context.Context) (transport.TPMCloser, error) { return h, nil }
	require.Equal(t, cause.Timeout, cause.Of(unwrap(t, sealed(t, cfg), wrapped)))
	cfg.Open = func(context.Context) (transport.TPMCloser, error) { return nil, os.ErrNotExist }
	require.Equal(t, cause.NoTPM, cause.Of(unwrap(t, sealed(t, cfg), wrapped)))
}

// busy answers "retry" to every command a few times.
type busy struct {
	transport.TPM
	count int
}

func (b *busy) Send(cmd []byte) ([]byte, error) {
	if b.count++; b.count%3 != 0 {
		return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x22}, nil
	}
	return b.TPM.Send(cmd)
}
func (b *busy) Close() error { return nil }

func TestBusyTPMIsWaitedFor(t *testing.T) {
	tpm := tpmsim.New(t)
	cfg := tpmwrap.Config{Open: func(context.Context) (transport.TPMCloser, error) { return &busy{TPM: tpm}, nil }, Parent: tpmwrap.ParentECCP256}
	w := sealed(t, cfg)
	wrapped, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	require.NoError(t, unwrap(t, w, wrapped))
}

// impostor answers for the storage root key with a key of its own, as somebody
// on the bus would to read what is encrypted to it.
type impostor struct {
	transport.TPM
	fake []byte
}

func (i *impostor) Send(cmd []byte) ([]byte, error) {
	if bytes.Equal(cmd[6:10], []byte{0, 0, 1, 0x73}) {
		return bytes.Clone(i.fake), nil
	}
	return i.TPM.Send(cmd)
}
func (i *impostor) Close() error { return nil }

func TestSessionsAreSaltedToThePinnedKeyOnly(t *testing.T) {
	tpm := tpmsim.New(t)
	other := tpmsim.New(t)
	cfg := tpmwrap.Config{Open: openerOf(tpm)}
	wrapped, err := sealed(t, cfg).Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	// The attacker's TPM has a storage root key at the same handle.
	_, err = sealed(t, tpmwrap.Config{Open: openerOf(other)}).Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	fake, err := other.Send([]byte{0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x73, 0x81, 0, 0, 1})
	require.NoError(t, err)
	sessions := 0
	tpm.Wire(func(cmd, _ []byte) {
		if bytes.Equal(cmd[6:10], []byte{0, 0, 1, 0x76}) {
			sessions++
		}
	})
	cfg.Open = func(context.Context) (transport.TPMCloser, error) { return &impostor{tpm, fake}, nil }
	require.NoError(t, unwrap(t, sealed(t, cfg), wrapped), "the real key is derived instead")
	require.Equal(t, 1, sessions)
}

func TestSignedPolicyOfBothKinds(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		for i, signer := range []crypto.Signer{rsaKey, ecKey} {
			file := filepath.Join(t.TempDir(), "policy")
			cfg := tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{
				Vendor: signer.Public(), Reference: "r", Document: func() ([]byte, error) { return os.ReadFile(file) },
				CounterIndex: 0x018d0100 + uint32(i),
			}, AnchorIndex: 0x018d0200 + uint32(i)}
			policy := func(number uint64, bank pcrpolicy.Bank) []byte {
				state, err := tpmwrap.State(t.Context(), tpm, bank, []uint{0, 7})
				require.NoError(t, err)
				state.Number = number
				doc, err := pcrpolicy.Make("r", cfg.Policy.CounterIndex, state)
				require.NoError(t, err)
				require.NoError(t, doc.Sign(signer))
				data, err := doc.Marshal()
				require.NoError(t, err)
				return data
			}
			w := sealed(t, cfg)
			_, err := w.Wrap(t.Context(), key, binding)
			require.Equal(t, cause.PolicyMissing, cause.Of(err))
			require.NoError(t, w.InstallPolicy(t.Context(), file, policy(20, pcrpolicy.SHA256)))
			wrapped, err := w.Wrap(t.Context(), key, binding)
			require.NoError(t, err)
			require.NoError(t, unwrap(t, w, wrapped))
			require.NoError(t, w.Commit(t.Context(), [32]byte(binding)))
			require.NoError(t, unwrap(t, w, wrapped))

			require.ErrorContains(t, w.Revoke(t.Context(), 21), "would revoke the installed one")
			old := policy(19, pcrpolicy.SHA384)
			require.NoError(t, w.InstallPolicy(t.Context(), file, old))
			require.NoError(t, unwrap(t, w, wrapped), "SHA-384 bank")
			require.NoError(t, w.InstallPolicy(t.Context(), file, policy(20, pcrpolicy.SHA256)))
			require.ErrorIs(t, w.Revoke(t.Context(), 20), tpmwrap.ErrNotProven, "19 is what opened the key last")
			require.ErrorIs(t, sealed(t, cfg).Revoke(t.Context(), 20), tpmwrap.ErrNotProven, "this one opened nothing")
			require.NoError(t, unwrap(t, w, wrapped), "20 was not needed, 19 is not revoked")
			require.NoError(t, w.Revoke(t.Context(), 20))
			require.NoError(t, sealed(t, cfg).Revoke(t.Context(), 20), "there is nothing to do any more")
			require.NoError(t, w.Revoke(t.Context(), 20))
			require.Equal(t, cause.PolicyRolledBack, cause.Of(w.InstallPolicy(t.Context(), file, old)))
			require.NoError(t, unwrap(t, w, wrapped), "the refused one is not in place")
			require.NoError(t, os.WriteFile(file, old, 0o600))
			require.Equal(t, cause.PolicyRolledBack, cause.Of(unwrap(t, w, wrapped)))
		}
	})
}

func TestPowerCutAtEveryStepOfAPolicyUpdate(t *testing.T) {
	tpm := tpmsim.New(t)
	vendor, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	type system struct {
		cfg     tpmwrap.Config
		wrapped []byte
		file    string
	}
	policy := func(t *testing.T, number uint64) []byte {
		state, err := tpmwrap.State(t.Context(), tpm, pcrpolicy.SHA256, []uint{7})
		require.NoError(t, err)
		state.Number = number
		doc, err := pcrpolicy.Make("r", 0, state)
		require.NoError(t, err)
		require.NoError(t, doc.Sign(vendor))
		data, err := doc.Marshal()
		require.NoError(t, err)
		return data
	}
	durabletest.EachStop(t,
		func(t *testing.T) system {
			s := system{file: filepath.Join(t.TempDir(), "policy")}
			s.cfg = tpmwrap.Config{Open: openerOf(tpm), Parent: tpmwrap.ParentECCP256, Policy: tpmwrap.Policy{
				Vendor: vendor.Public(), Reference: "r", Document: func() ([]byte, error) { return os.ReadFile(s.file) },
			}}
			require.NoError(t, os.WriteFile(s.file, policy(t, 16), 0o600))
			var err error
			s.wrapped, err = sealed(t, s.cfg).Wrap(t.Context(), key, binding)
			require.NoError(t, err)
			return s
		},
		func(s system, w durable.Writer) error {
			return sealed(t, tpmwrap.WithWriter(s.cfg, w)).InstallPolicy(t.Context(), s.file, policy(t, 17))
		},
		func(t *testing.T, s system, done bool) {
			require.NoError(t, unwrap(t, sealed(t, s.cfg), s.wrapped))
			if done {
				data, err := os.ReadFile(s.file)
				require.NoError(t, err)
				doc, err := pcrpolicy.Parse(data)
				require.NoError(t, err)
				require.EqualValues(t, 17, doc.Alternatives[0].Number)
			}
		})
}

func TestExistingKeyAndCiphertextOfAProduct(t *testing.T) {
	tpmsim.Each(t, func(t *testing.T, b tpmsim.Backend) {
		tpm := b.New(t)
		const handle = 0x81000123
		primary, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Decrypt: true},
				Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
			}),
		}.Execute(tpm)
		require.NoError(t, err)
		_, err = tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     &tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
			PersistentHandle: handle,
		}.Execute(tpm)
		require.NoError(t, err)
		_, err = tpm2.FlushContext{FlushHandle: primary.ObjectHandle}.Execute(tpm)
		require.NoError(t, err)
		public, err := primary.OutPublic.Contents()
		require.NoError(t, err)
		parms, err := public.Parameters.RSADetail()
		require.NoError(t, err)
		unique, err := public.Unique.RSA()
		require.NoError(t, err)
		pub, err := tpm2.RSAPub(parms, unique)
		require.NoError(t, err)
		ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, key, []byte("product\x00"))
		require.NoError(t, err)

		var wire bytes.Buffer
		tpm.Wire(func(cmd, rsp []byte) { wire.Write(cmd); wire.Write(rsp) })
		cfg := tpmwrap.OAEPConfig{Config: tpmwrap.Config{Open: openerOf(tpm)}, Handle: handle, Name: primary.Name.Buffer, Label: "product", Existing: ciphertext}
		w, err := tpmwrap.NewOAEP(cfg)
		require.NoError(t, err)
		got := make([]byte, 32)
		require.NoError(t, w.GenerateKey(t.Context(), got))
		require.Equal(t, key, got)
		wrapped, err := w.Wrap(t.Context(), got, binding)
		require.NoError(t, err)
		clear(got)
		_, err = w.Unwrap(t.Context(), wrapped, binding, got)
		require.NoError(t, err)
		require.Equal(t, key, got)
		require.False(t, bytes.Contains(wire.Bytes(), key[:8]))

		// The control: without the session the same command shows the key.
		_, err = tpm2.RSADecrypt{
			KeyHandle:  tpm2.AuthHandle{Handle: handle, Name: primary.Name, Auth: tpm2.PasswordAuth(nil)},
			CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: ciphertext},
			InScheme: tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgOAEP,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256})},
			Label: tpm2.TPM2BData{Buffer: []byte("product\x00")},
		}.Execute(tpm)
		require.NoError(t, err)
		require.True(t, bytes.Contains(wire.Bytes(), key), "the spy sees what is not encrypted")

		cfg.Name = bytes.Repeat([]byte{1}, 34)
		bad, err := tpmwrap.NewOAEP(cfg)
		require.NoError(t, err)
		require.Equal(t, cause.RecordCorrupt, cause.Of(bad.GenerateKey(t.Context(), got)))
	})
}

func TestConfigMistakesAreReported(t *testing.T) {
	_, err := tpmwrap.NewSealed(tpmwrap.Config{AnchorIndex: 1, Timeout: -1, Policy: tpmwrap.Policy{PCRs: []uint{24}}})
	for _, want := range []string{"Open is nil", "AnchorIndex", "Timeout", "PCR 24"} {
		require.ErrorContains(t, err, want)
	}
	open := openerOf(nil)
	for _, p := range []tpmwrap.Policy{
		{PCRs: []uint{16, 23}}, {PCRs: []uint{7}, CapPCR: 8}, {PCRs: []uint{7}, Bank: "sha1"},
		{Vendor: "no key"}, {CounterIndex: tpmwrap.DefaultAnchorIndex}, {CounterIndex: 7},
	} {
		_, err := tpmwrap.NewSealed(tpmwrap.Config{Open: open, Policy: p})
		require.Error(t, err, "%+v", p)
	}
	_, err = tpmwrap.NewOAEP(tpmwrap.OAEPConfig{Config: tpmwrap.Config{Open: open, Policy: tpmwrap.Policy{PCRs: []uint{7}}}, Handle: 0x81000001})
	require.ErrorContains(t, err, "Policy does not apply")
}

func TestOwnerAuthorizationIsNeverPrinted(t *testing.T) {
	cfg := tpmwrap.Config{OwnerAuth: []byte("owner-secret")}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", cfg)
	text := fmt.Sprintf("%v %+v %#v %s", cfg, &cfg, cfg, tpmwrap.OAEPConfig{Config: cfg}) + log.String()
	require.NotContains(t, text, "owner-secret")
	require.NotContains(t, text, "111 119 110")
}

// TestOwnerAuthorization has an owner with a secret of his own: everything works
// with it, and nothing can be enabled without.
func TestOwnerAuthorization(t *testing.T) {
	tpm := tpmsim.New(t)
	auth := []byte("owner-secret")
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: auth},
	}.Execute(tpm)
	require.NoError(t, err)
	cfg := tpmwrap.Config{Open: openerOf(tpm), Policy: tpmwrap.Policy{PCRs: []uint{7}}}
	_, err = sealed(t, cfg).Wrap(t.Context(), key, binding)
	require.Equal(t, cause.TPMFailed, cause.Of(err))
	cfg.OwnerAuth = auth
	w := sealed(t, cfg)
	wrapped, err := w.Wrap(t.Context(), key, binding)
	require.NoError(t, err)
	require.NoError(t, w.Commit(t.Context(), [32]byte(binding)))
	require.NoError(t, unwrap(t, sealed(t, cfg), wrapped))
}
