package repo_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/repo"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
	"github.com/mooringlib/mooring/internal/peer"
)

func newKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func writeImage(t testing.TB, name string, size int) string {
	path := filepath.Join(t.TempDir(), name)
	data := make([]byte, size)
	_, err := rand.Read(data)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

func readEntry(t testing.TB, dir string, i int) repo.Entry {
	data, err := os.ReadFile(filepath.Join(dir, repo.IndexPath))
	require.NoError(t, err)
	x, err := repo.ParseIndex(data)
	require.NoError(t, err)
	return x.Images[i]
}

func TestMakeThenVerify(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, key := range map[string]crypto.Signer{"ed25519": newKey(t), "p256": p256} {
		for _, alg := range []repo.Algorithm{repo.SHA256, repo.SHA512_256} {
			t.Run(name+"/"+string(alg), func(t *testing.T) {
				image := writeImage(t, "SSR-7.0.1.iso", 1<<20+17)
				dir := t.TempDir()
				made, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: key, Algorithm: alg}, image)
				require.NoError(t, err)
				require.Len(t, made, 1)

				v, err := repo.NewVerifier(key.Public())
				require.NoError(t, err)
				m, err := v.Verify(readEntry(t, dir, 0).Envelope)
				require.NoError(t, err)
				require.Equal(t, "SSR-7.0.1", m.Version)
				require.Equal(t, made[0].Identity(), m.Identity())

				want, err := os.ReadFile(image)
				require.NoError(t, err)
				got, err := os.ReadFile(filepath.Join(dir, m.Path()))
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				require.Equal(t, repo.Digest(sha256.Sum256(want)), m.SHA256)

				list, err := os.ReadFile(filepath.Join(dir, m.ChunkListPath()))
				require.NoError(t, err)
				chunks, err := m.ParseChunkList(list)
				require.NoError(t, err)
				require.Len(t, chunks, 5)
				for i, c := range chunks {
					off, n := m.ChunkRange(i)
					h := alg.New()
					h.Write(want[off : off+n])
					require.Equal(t, h.Sum(nil), c)
				}
				list[3] ^= 1
				_, err = m.ParseChunkList(list)
				require.ErrorIs(t, err, repo.ErrChunkList)
				_, err = m.ParseChunkList(list[:len(list)-1])
				require.ErrorIs(t, err, repo.ErrChunkList)

				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Len(t, entries, 2, "index and the version's folder, nothing left over")
			})
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	dir := t.TempDir()
	_, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: key}, writeImage(t, "a-1.img", 10_000))
	require.NoError(t, err)
	good := readEntry(t, dir, 0).Envelope
	v, err := repo.NewVerifier(key.Public())
	require.NoError(t, err)
	_, err = v.Verify(good)
	require.NoError(t, err)

	stranger, err := repo.NewVerifier(other.Public())
	require.NoError(t, err)
	_, err = stranger.Verify(good)
	require.ErrorIs(t, err, repo.ErrNotSigned)

	change := func(f func(e map[string]any)) []byte {
		var e map[string]any
		require.NoError(t, json.Unmarshal(good, &e))
		f(e)
		out, err := json.Marshal(e)
		require.NoError(t, err)
		return out
	}
	for name, tc := range map[string]struct {
		data []byte
		want error
	}{
		"no signatures":  {change(func(e map[string]any) { e["signatures"] = []any{} }), repo.ErrNotSigned},
		"other type":     {change(func(e map[string]any) { e["payloadType"] = "text/plain" }), repo.ErrMalformed},
		"unknown field":  {change(func(e map[string]any) { e["more"] = 1 }), repo.ErrMalformed},
		"other payload":  {change(func(e map[string]any) { e["payload"] = "e30=" }), repo.ErrNotSigned},
		"not JSON":       {[]byte("{"), repo.ErrMalformed},
		"data after it":  {append(bytes.Clone(good), "{}"...), repo.ErrMalformed},
		"larger than it": {bytes.Repeat([]byte(" "), 17<<10), repo.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Verify(tc.data)
			require.ErrorIs(t, err, tc.want)
		})
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if m, err := v.Verify(bad); err == nil {
			// A flipped bit in unused base64 bits or a JSON space changes nothing.
			require.Equal(t, "a-1", m.Version)
		}
		_, err := v.Verify(good[:i])
		require.Error(t, err)
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	made, err := repo.Make(t.Context(), repo.MakeConfig{
		Dir: t.TempDir(), Key: newKey(t), Validity: time.Hour, Now: func() time.Time { return now },
	}, writeImage(t, "a-1.img", 100))
	require.NoError(t, err)
	require.NoError(t, made[0].CheckExpiry(now.Add(time.Hour-time.Second)))
	require.ErrorIs(t, made[0].CheckExpiry(now.Add(time.Hour)), repo.ErrExpired)
}

func TestCounterGrowsEvenWhenTheClockGoesBack(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	cfg := repo.MakeConfig{Dir: dir, Key: key, Now: func() time.Time { return now }}
	var last uint64
	var paths []string
	for _, step := range []time.Duration{0, 0, -time.Hour, time.Minute} {
		now = now.Add(step)
		made, err := repo.Make(t.Context(), cfg, writeImage(t, "a-1.img", 5000))
		require.NoError(t, err)
		require.Greater(t, made[0].Counter, last)
		last = made[0].Counter
		paths = append(paths, filepath.Join(dir, made[0].Path()))
	}
	for _, p := range paths[:3] {
		require.NoFileExists(t, p, "a replaced image gives its space back")
	}
	require.FileExists(t, paths[3])
}

func TestMakeRefusesBadInputAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	_, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Algorithm: "md5", ChunkSize: 3, Validity: -1}, "a b.iso", "x/v.iso", "y/v.img", ".hidden")
	for _, part := range []string{"no signing key", `"md5"`, "chunk size 3", "negative", `"a b.iso"`, `"x/v.iso" and "y/v.img"`, `".hidden"`} {
		require.ErrorContains(t, err, part)
	}
	require.NoDirExists(t, dir)
}

func TestMakeStoppedAnywhereLeavesOldOrNew(t *testing.T) {
	key := newKey(t)
	before, after := writeImage(t, "a-1.img", 9000), writeImage(t, "a-1.img", 9000)
	v, err := repo.NewVerifier(key.Public())
	require.NoError(t, err)
	durabletest.EachStop(t,
		func(t *testing.T) string {
			dir := t.TempDir()
			_, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: key}, before)
			require.NoError(t, err)
			return dir
		},
		func(dir string, w durable.Writer) error {
			_, err := repo.Make(t.Context(), repo.MakeConfig{Dir: dir, Key: key}.WithWriter(w), after)
			return err
		},
		func(t *testing.T, dir string, done bool) {
			m, err := v.Verify(readEntry(t, dir, 0).Envelope)
			require.NoError(t, err)
			data, err := os.ReadFile(filepath.Join(dir, m.Path()))
			require.NoError(t, err)
			require.Equal(t, m.SHA256, repo.Digest(sha256.Sum256(data)), "what the index names is whole")
			if done {
				want, err := os.ReadFile(after)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, data))
			}
		})
}

func TestKeysOfOpenSSL(t *testing.T) {
	openssl := peer.Need(t, "openssl")
	dir := t.TempDir()
	run := func(args ...string) {
		out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	for name, args := range map[string][]string{
		"ed25519": {"-algorithm", "ed25519"},
		"p256":    {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	} {
		private, public := filepath.Join(dir, name), filepath.Join(dir, name+".pub")
		run(append([]string{"genpkey", "-out", private}, args...)...)
		run("pkey", "-in", private, "-pubout", "-out", public)
		data, err := os.ReadFile(private)
		require.NoError(t, err)
		key, err := repo.ParsePrivateKey(data)
		require.NoError(t, err)
		_, err = repo.ParsePublicKey(data)
		require.ErrorContains(t, err, "openssl pkey")
		data, err = os.ReadFile(public)
		require.NoError(t, err)
		pub, err := repo.ParsePublicKey(data)
		require.NoError(t, err)
		require.Equal(t, key.Public(), pub)
	}
	run("genpkey", "-algorithm", "RSA", "-out", filepath.Join(dir, "rsa"))
	data, err := os.ReadFile(filepath.Join(dir, "rsa"))
	require.NoError(t, err)
	_, err = repo.ParsePrivateKey(data)
	require.ErrorContains(t, err, "only Ed25519 and ECDSA P-256")
}

func TestRanges(t *testing.T) {
	var r repo.Ranges
	require.NoError(t, r.UnmarshalText([]byte("0-3,5-6,9-12")))
	require.Equal(t, 7, r.Count())
	for i, want := range []bool{true, true, true, false, false, true, false, false, false, true, true, true, false} {
		require.Equal(t, want, r.Contains(i), i)
	}
	for _, bad := range []string{"3", "3-3", "4-3", "0-3,3-4", "5-6,1-2", "-1-2", "a-b", "0-65537", "0-1,"} {
		require.Error(t, r.UnmarshalText([]byte(bad)), bad)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"format":"mooring-index/1","images":[{"envelope":{},"state":"stopped","have":"0-3,7-9"}]}`))
	f.Add([]byte(`{"format":"mooring-index/2"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := repo.ParseIndex(data)
		if err != nil {
			return
		}
		out, err := x.Encode()
		require.NoError(t, err)
		y, err := repo.ParseIndex(out)
		require.NoError(t, err)
		require.Len(t, y.Images, len(x.Images))
	})
}

func FuzzVerify(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	dir := f.TempDir()
	_, err := repo.Make(f.Context(), repo.MakeConfig{Dir: dir, Key: key}, writeImage(f, "a-1.img", 100))
	require.NoError(f, err)
	f.Add([]byte(readEntry(f, dir, 0).Envelope))
	f.Add([]byte(`{}`))
	v, err := repo.NewVerifier(key.Public())
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := v.Verify(data)
		if err == nil {
			require.NoError(t, repo.CheckVersion(m.Version))
			require.False(t, strings.Contains(m.Path(), ".."+"/"))
		}
	})
}

func FuzzRanges(f *testing.F) {
	f.Add("0-12,14-20")
	f.Fuzz(func(t *testing.T, s string) {
		var r, again repo.Ranges
		if r.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := r.MarshalText()
		require.NoError(t, err)
		require.NoError(t, again.UnmarshalText(text))
		require.Equal(t, r, again)
	})
}
