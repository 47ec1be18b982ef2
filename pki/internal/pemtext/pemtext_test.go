package pemtext_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
	"github.com/mooringlib/mooring/pki/internal/pemtext"
)

// TestNoFalseAlarm looks for private keys in certificates that have none.
func TestNoFalseAlarm(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(peer.NeedTestdata(t, "pkits", "certs"), "*.crt"))
	require.NoError(t, err)
	require.Greater(t, len(files), 300)
	for n, name := range files {
		if n%3 != 0 {
			continue // each of the many kinds is there more than once
		}
		der, err := os.ReadFile(name)
		require.NoError(t, err)
		form, found := pemtext.FindPrivateKey(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		require.False(t, found, "%s: %s", name, form)
	}
	data, err := os.ReadFile(peer.NeedTestdata(t, "x509-limbo", "limbo.json"))
	require.NoError(t, err)
	var limbo struct {
		Testcases []struct {
			Trusted       []string `json:"trusted_certs"`
			Intermediates []string `json:"untrusted_intermediates"`
			Leaf          string   `json:"peer_certificate"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &limbo))
	for _, c := range limbo.Testcases {
		for _, text := range append(append(c.Trusted, c.Intermediates...), c.Leaf) {
			form, found := pemtext.FindPrivateKey([]byte(text))
			require.False(t, found, "%s: %s", form, text)
		}
	}
}

// TestPrintedKeys gives what OpenSSL prints for people.
func TestPrintedKeys(t *testing.T) {
	t.Parallel()
	openssl := peer.Need(t, "openssl")
	for _, args := range [][]string{
		{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, {"-algorithm", "RSA"}, {"-algorithm", "ED25519"}, {"-algorithm", "X448"},
	} {
		key, err := exec.CommandContext(t.Context(), openssl, append([]string{"genpkey"}, args...)...).Output()
		require.NoError(t, err, args)
		printed := exec.CommandContext(t.Context(), openssl, "pkey", "-text", "-noout")
		printed.Stdin = bytes.NewReader(key)
		text, err := printed.Output()
		require.NoError(t, err, args)
		for _, text := range [][]byte{text, bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))} {
			form, found := pemtext.FindPrivateKey(text)
			require.True(t, found, "%s", text)
			require.Equal(t, "a printed private key", form)
		}
		printed = exec.CommandContext(t.Context(), openssl, "pkey", "-text_pub", "-noout")
		printed.Stdin = bytes.NewReader(key)
		text, err = printed.Output()
		require.NoError(t, err, args)
		form, found := pemtext.FindPrivateKey(text)
		require.False(t, found, "%s: %s", form, text)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bytes.Repeat([]byte{1, 2, 3}, 40)})
	for name, text := range map[string][]byte{
		"plain": one, "no line breaks": bytes.ReplaceAll(one, []byte("\n"), nil), "CRLF": bytes.ReplaceAll(one, []byte("\n"), []byte("\r\n")),
		"text around": append([]byte("Certificate:\n-- \n"), append(bytes.Clone(one), "----- the end"...)...),
	} {
		blocks, err := pemtext.Blocks(text, 4)
		require.NoError(t, err, name)
		require.Equal(t, []pemtext.Block{{Type: "CERTIFICATE", Bytes: bytes.Repeat([]byte{1, 2, 3}, 40)}}, blocks, name)
	}
	_, err := pemtext.Blocks(bytes.Repeat(one, 5), 4)
	require.ErrorIs(t, err, pemtext.ErrTooMany)
	for n := 12; n < len(one)-2; n++ {
		_, err := pemtext.Blocks(one[:n], 4)
		require.Error(t, err, "cut at %d", n)
	}
}

// TestWorkIsBounded searches texts that are made to be slow.
func TestWorkIsBounded(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	integers := bytes.Repeat([]byte{0x30, 0x83, 3, 0xff, 0xf0, 2, 1, 0, 2, 1, 0}, size/11)
	nested := bytes.Repeat([]byte("MDAw"), size/4)
	for name, text := range map[string][]byte{
		"sequences": bytes.Repeat([]byte{0x30, 0x80}, size/2), "integers": integers, "text in text": nested,
		"hex": bytes.Repeat([]byte("30"), size/2), "edges": bytes.Repeat([]byte("-----BEGIN "), size/11), "dashes": bytes.Repeat([]byte("-"), size),
	} {
		begin := time.Now()
		_, _ = pemtext.FindPrivateKey(text)
		_, _ = pemtext.Blocks(text, 1000)
		require.Less(t, time.Since(begin), 20*time.Second, name)
	}
	deep := pem.EncodeToMemory(&pem.Block{Type: "DATA", Bytes: bytes.Repeat([]byte{7}, 4096)})
	for range 3 {
		deep = []byte(base64.StdEncoding.EncodeToString(deep))
	}
	_, found := pemtext.FindPrivateKey(deep)
	require.False(t, found)
}

func FuzzBlocks(f *testing.F) {
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bytes.Repeat([]byte{1, 2, 3}, 40)})
	f.Add(one)
	f.Add(bytes.ReplaceAll(one, []byte("\n"), nil))
	f.Add([]byte("-----BEGIN A-----\n-----END A-----"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = pemtext.FindPrivateKey(text)
		blocks, err := pemtext.Blocks(text, 8)
		if err != nil {
			return
		}
		var out []byte
		for _, b := range blocks {
			if len(b.Bytes) == 0 {
				t.Fatal("an empty block")
			}
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes})...)
		}
		again, err := pemtext.Blocks(out, 8)
		if err == nil && len(again) != len(blocks) {
			t.Fatalf("%d blocks, then %d", len(blocks), len(again))
		}
	})
}

func BenchmarkFindPrivateKey(b *testing.B) {
	text := bytes.Repeat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bytes.Repeat([]byte{0x30, 0x82, 3}, 400)}), 10)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, found := pemtext.FindPrivateKey(text); found {
			b.Fatal("found one")
		}
	}
}
