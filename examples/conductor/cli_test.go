package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

func TestScripts(t *testing.T) {
	if os.Getenv("MOORING_REQUIRE_PEERS") == "1" {
		// Without it one of the scripts would skip.
		needPeer(t, "openssl")
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// digest covers every file of a directory but the audit record, to which a
// refusal is written.
func digest(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), fileStore) || d.Name() == fileEvents {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d %x\n", path, len(b), sha256.Sum256(b))
		return err
	}))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestBadInput: one clear line, a status other than 0, and nothing changed.
func TestBadInput(t *testing.T) {
	s := newSite(t)
	s.must("router", "add", "-name", "r", "-mode", "weak", "-node", "node0", "-asset-id", "A")
	s.must("router", "add", "-name", "other", "-mode", "weak", "-node", "node0", "-asset-id", "B")
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("garbage\nin\nlines"), 0o600))
	empty := t.TempDir()
	long := strings.Repeat("x", 5000)
	add := func(extra ...string) []string {
		return append([]string{"router", "add", "-dir", s.dir, "-name", "n", "-mode", "weak", "-node", "node0", "-asset-id", "N"}, extra...)
	}
	before := digest(t, s.dir)
	routers := s.must("router", "list", "-json")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no command", nil, 2, "conductor -h"},
		{"unknown command", []string{"frobnicate"}, 2, "frobnicate"},
		{"unknown router command", []string{"router", "frobnicate"}, 2, "frobnicate"},
		{"no router command", []string{"router"}, 2, "which command"},
		{"unknown flag", []string{"router", "list", "-dir", s.dir, "-frob"}, 2, "-frob"},
		{"argument too many", []string{"router", "list", "-dir", s.dir, "x"}, 2, `"x"`},
		{"no dir", []string{"router", "list"}, 2, "-dir is missing"},
		{"dir is not there", []string{"router", "list", "-dir", filepath.Join(empty, "x")}, 1, "conductor init"},
		{"dir is empty", []string{"serve", "-dir", empty}, 1, "conductor init"},
		{"init without dir", []string{"init"}, 2, "-dir is missing"},
		{"init with a bad host", []string{"init", "-dir", filepath.Join(empty, "c"), "-host", "a b"}, 1, `"a b"`},
		{"init into a file", []string{"init", "-dir", garbage}, 1, "garbage"},
		{"init where its files are", []string{"init", "-dir", s.dir}, 1, "already"},
		{"init with host and cert", []string{"init", "-dir", empty, "-host", "x", "-cert", "a", "-key", "b", "-ca", "c"}, 2, "-host"},
		{"init with a cert that is not there", []string{"init", "-dir", empty, "-cert", "nope", "-key", "b", "-ca", "c"}, 1, "-cert"},
		{"add without node", []string{"router", "add", "-dir", s.dir, "-name", "n", "-asset-id", "N"}, 2, "-node"},
		{"add without asset-id", []string{"router", "add", "-dir", s.dir, "-name", "n", "-node", "n"}, 2, "-asset-id"},
		{"add with an empty asset-id", []string{"router", "add", "-dir", s.dir, "-name", "n", "-node", "n", "-asset-id", ""}, 1, "asset-id"},
		{"bad mode", add("-mode", "Strong"), 1, `"Strong"`},
		{"bad name", add("-name", "a/b"), 1, `"a/b"`},
		{"long name", add("-name", long), 1, "1..63"},
		{"bad asset-id", add("-asset-id", "a"), 2, "-asset-id"},
		{"asset-id with a blank", []string{"router", "add", "-dir", s.dir, "-name", "n", "-node", "n", "-asset-id", "a b"}, 1, `"a b"`},
		{"asset-id of another router", []string{"router", "add", "-dir", s.dir, "-name", "n", "-node", "n", "-asset-id", "A"}, 1, "belongs to another router"},
		{"short secret", add("-pre-shared-secret", "short"), 1, "48"},
		{"secret with a sign", add("-pre-shared-secret", strings.Repeat("-", 48)), 1, "position 1"},
		{"endorsement key that is neither", add("-endorsement-key", "nonsense"), 1, "-endorsement-key"},
		{"endorsement key file with garbage", add("-endorsement-key", garbage), 1, "-endorsement-key"},
		{"too many roles", add("-role", "a", "-role", "b"), 2, "-role"},
		{"three nodes", add("-node", "b", "-asset-id", "b", "-node", "c", "-asset-id", "c"), 1, "at most 2"},
		{"set of nobody", []string{"router", "set", "-dir", s.dir, "-name", "nobody", "-mode", "weak"}, 1, "router add"},
		{"set with a bad mode", []string{"router", "set", "-dir", s.dir, "-name", "r", "-mode", "x"}, 1, `"x"`},
		{"set to a taken asset-id", []string{"router", "set", "-dir", s.dir, "-name", "r", "-asset-id", "B"}, 1, "belongs to another router"},
		{"show of nobody", []string{"router", "show", "-dir", s.dir, "-name", "nobody"}, 1, "no such router"},
		{"release of nothing", []string{"router", "release", "-dir", s.dir, "-name", "r", "-asset-id", "nope"}, 1, "no node"},
		{"token without router", []string{"token", "-dir", s.dir}, 2, "-router is missing"},
		{"token for too long", []string{"token", "-dir", s.dir, "-router", "r", "-expiration-timeout", "2y"}, 2, "1y"},
		{"token for nonsense", []string{"token", "-dir", s.dir, "-router", "r", "-expiration-timeout", "soon"}, 2, `"soon"`},
		{"token with a bad address", []string{"token", "-dir", s.dir, "-router", "r", "-conductor", "nowhere"}, 1, `"nowhere"`},
		{"roots that are not there", []string{"devid", "add", "-dir", s.dir, "-roots", "nope"}, 1, "nope"},
		{"roots that are garbage", []string{"devid", "add", "-dir", s.dir, "-roots", garbage}, 1, "no PEM certificate"},
		{"roots that are no CA", []string{"devid", "add", "-dir", s.dir, "-roots", filepath.Join(s.dir, fileCert)}, 1, "not a CA certificate"},
		{"legacy refused", []string{"legacy", "-dir", s.dir, "-asset-id", "A"}, 3, "its mode is weak"},
		{"legacy unknown", []string{"legacy", "-dir", s.dir, "-asset-id", long}, 3, "no router has"},
		{"serve on nonsense", []string{"serve", "-dir", s.dir, "-onboarding", "nonsense", "-ssh", "127.0.0.1:0"}, 1, "-onboarding"},
		{"serve legacy on nonsense", []string{"serve", "-dir", s.dir, "-legacy", "4505,x"}, 2, `"x"`},
		{"serve with a bad rule", []string{"serve", "-dir", s.dir, "-allow-dial", "everything"}, 2, `"everything"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			err := run(context.Background(), tc.args, strings.NewReader(""), &out, &stderr)
			require.Error(t, err)
			stderr.Reset()
			require.Equal(t, tc.code, report(&stderr, err), "%v", err)
			requireOneLine(t, stderr.String())
			require.Less(t, len(stderr.String()), 1500)
			require.Contains(t, stderr.String(), tc.want)
			require.Empty(t, out.String())
			require.Equal(t, before, digest(t, s.dir))
			require.Equal(t, routers, s.must("router", "list", "-json"))
		})
	}
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing was made")
}

// TestEndorsementKeyForms reads what "tpm2_readpublic -f" and "base64" write.
func TestEndorsementKeyForms(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	want := base64.StdEncoding.EncodeToString(der)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"der": string(der), "pem": string(encodePEM("PUBLIC KEY", der)), "base64": want, "base64-newline": want + "\n", "base64-wrapped": want[:60] + "\n" + want[60:] + "\n",
	} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		got, err := readEndorsementKey(file)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	got, err := readEndorsementKey(want)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = readEndorsementKey(filepath.Join(dir, "nope"))
	require.Error(t, err)
}
