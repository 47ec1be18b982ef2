package tpmkey_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/tpmkey"
)

// vector reads a key that OpenSSL's TPM provider wrote.
func vector(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(tb, err)
	return data
}

func TestParseProviderKeys(t *testing.T) {
	t.Parallel()
	for name, parent := range map[string]tpm2.TPMHandle{
		"provider-ec-owner.pem":       tpm2.TPMRHOwner,
		"provider-rsa-persistent.pem": tpmkey.SRKHandle,
	} {
		b, err := tpmkey.ParsePEM(vector(t, name))
		require.NoError(t, err, name)
		require.Equal(t, parent, b.Parent())
		again, err := tpmkey.ParsePEM(b.MarshalPEM())
		require.NoError(t, err)
		require.Equal(t, b.Public(), again.Public())
		require.Equal(t, b.MarshalPEM(), again.MarshalPEM())
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := vector(t, "provider-ec-owner.pem")
	block, _ := pem.Decode(good)
	der := block.Bytes
	edit := func(f func(d []byte) []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: tpmkey.PEMType, Bytes: f(bytes.Clone(der))})
	}
	oid := bytes.Index(der, []byte{0x06, 0x06})
	auth := bytes.Index(der, []byte{0xa0, 0x03, 0x01, 0x01})
	parent := bytes.Index(der, []byte{0x02, 0x04, 0x40, 0, 0, 1})
	public := parent + 6
	for name, c := range map[string]struct {
		data []byte
		is   error
	}{
		"empty":           {nil, tpmkey.ErrFormat},
		"text":            {[]byte("hello"), tpmkey.ErrFormat},
		"text before":     {append([]byte("hello\n"), good...), tpmkey.ErrFormat},
		"text after":      {append(bytes.Clone(good), "hello"...), tpmkey.ErrFormat},
		"two keys":        {append(bytes.Clone(good), good...), tpmkey.ErrFormat},
		"other type":      {bytes.ReplaceAll(good, []byte("TSS2 "), nil), tpmkey.ErrFormat},
		"headers":         {pem.EncodeToMemory(&pem.Block{Type: tpmkey.PEMType, Headers: map[string]string{"a": "b"}, Bytes: der}), tpmkey.ErrFormat},
		"too long":        {append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 20<<10)...), tpmkey.ErrFormat},
		"trailing byte":   {edit(func(d []byte) []byte { return append(d, 0) }), tpmkey.ErrFormat},
		"importable key":  {edit(func(d []byte) []byte { d[oid+7] = 4; return d }), tpmkey.ErrUnsupported},
		"password":        {edit(func(d []byte) []byte { d[auth+4] = 0; return d }), tpmkey.ErrUnsupported},
		"policy":          {edit(func(d []byte) []byte { d[auth] = 0xa1; return d }), tpmkey.ErrUnsupported},
		"secret":          {edit(func(d []byte) []byte { d[auth] = 0xa2; return d }), tpmkey.ErrUnsupported},
		"null hierarchy":  {edit(func(d []byte) []byte { d[parent+5] = 7; return d }), tpmkey.ErrUnsupported},
		"transient":       {edit(func(d []byte) []byte { d[parent+2] = 0x80; return d }), tpmkey.ErrUnsupported},
		"public length":   {edit(func(d []byte) []byte { d[public+3]++; return d }), tpmkey.ErrFormat},
		"key type":        {edit(func(d []byte) []byte { d[public+5] = 0x08; return d }), tpmkey.ErrFormat},
		"may leave":       {edit(func(d []byte) []byte { d[public+11] &^= 2; return d }), tpmkey.ErrUnsupported},
		"off the curve":   {edit(func(d []byte) []byte { d[public+30] ^= 1; return d }), tpmkey.ErrFormat},
		"an ordinary key": {[]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), tpmkey.ErrFormat},
	} {
		_, err := tpmkey.ParsePEM(c.data)
		require.ErrorIs(t, err, c.is, name)
	}
	for n := range der {
		_, err := tpmkey.ParsePEM(edit(func(d []byte) []byte { return d[:n] }))
		require.Error(t, err, "cut at %d", n)
	}
}

// TestParentForms reads the ways in which handles have been written.
func TestParentForms(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode(vector(t, "provider-ec-owner.pem"))
	i := bytes.Index(block.Bytes, []byte{0x02, 0x04, 0x40, 0, 0, 1})
	for name, c := range map[string]struct {
		der  []byte
		want tpm2.TPMHandle
	}{
		"negative": {[]byte{0x02, 0x04, 0x81, 0, 0, 1}, tpmkey.SRKHandle},
		"positive": {[]byte{0x02, 0x05, 0, 0x81, 0, 0, 1}, tpmkey.SRKHandle},
		"zero":     {[]byte{0x02, 0x01, 0}, tpm2.TPMRHOwner},
	} {
		der := append(bytes.Clone(block.Bytes[:i]), c.der...)
		der = append(der, block.Bytes[i+6:]...)
		der[2] = byte(len(der) - 3)
		b, err := tpmkey.ParsePEM(pem.EncodeToMemory(&pem.Block{Type: tpmkey.PEMType, Bytes: der}))
		require.NoError(t, err, name)
		require.Equal(t, c.want, b.Parent(), name)
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add(vector(f, "provider-ec-owner.pem"))
	f.Add(vector(f, "provider-rsa-persistent.pem"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := tpmkey.ParsePEM(data)
		if err != nil {
			return
		}
		out := b.MarshalPEM()
		again, err := tpmkey.ParsePEM(out)
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if !bytes.Equal(out, again.MarshalPEM()) {
			t.Fatal("second encoding differs")
		}
	})
}
