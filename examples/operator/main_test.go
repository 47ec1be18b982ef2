package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/internal/peer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"operator": main})
}

// vendor is a directory server for one script.
type vendor struct {
	*httptest.Server
	mu    sync.Mutex
	certs map[string][]byte
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	cert, ok := v.certs[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(cert)
}

// TestScripts drives the command as a person does, with openssl beside it.
func TestScripts(t *testing.T) {
	peer.Need(t, "openssl")
	type key struct{}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			v := &vendor{certs: map[string][]byte{}}
			v.Server = httptest.NewUnstartedServer(v)
			v.Config.ErrorLog = log.New(io.Discard, "", 0)
			v.StartTLS()
			e.Defer(v.Close)
			e.Values[key{}] = v
			e.Setenv("URL", v.URL)
			return os.WriteFile(filepath.Join(e.WorkDir, "vendor.pem"),
				pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw}), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// publish SERIAL FILE puts a certificate into the vendor's directory.
			"publish": func(ts *testscript.TestScript, neg bool, args []string) {
				v := ts.Value(key{}).(*vendor)
				v.mu.Lock()
				defer v.mu.Unlock()
				v.certs["/certificates/"+args[0]+".crt"] = []byte(ts.ReadFile(args[1]))
			},
			// stop ends the vendor's directory.
			"stop": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Value(key{}).(*vendor).Close()
			},
			// selfsigned NAME makes a P-256 key and certificate.
			"selfsigned": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Check(selfSigned(ts.MkAbs(args[0]), args[0]))
			},
		},
	})
}

func selfSigned(base, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// TestParseKeyTellsNothing makes sure that a damaged key does not end up in an error.
func TestParseKeyTellsNothing(t *testing.T) {
	for _, typ := range []string{"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OTHER"} {
		_, err := parseKey(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: []byte("topsecret")}))
		require.Error(t, err, typ)
		require.NotContains(t, err.Error(), "topsecret")
		require.NotContains(t, err.Error(), "dG9wc2VjcmV0")
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
		text string
	}{
		{[]string{"-h"}, 0, ""},
		{[]string{"fetch", "-h"}, 0, ""},
		{nil, 2, "operator: usage: a command is missing: fetch or encrypt; operator -h explains\n"},
		{[]string{"fetch", "-url", "x"}, 2, "operator: usage: -ca is missing; operator fetch -h explains\n"},
		{[]string{"encrypt", "-cert", "none", "-in", "x", "-out", "y"}, 1, "operator: -cert: open none: no such file or directory\n"},
	} {
		var stdout, stderr strings.Builder
		require.Equal(t, c.want, exitCode(run(context.Background(), c.args, strings.NewReader(""), &stdout), &stderr), "%v", c.args)
		require.Equal(t, c.text, stderr.String())
		require.Equal(t, c.want == 0, stdout.Len() > 0)
	}
	var stderr strings.Builder
	require.Equal(t, 1, exitCode(errors.Join(errors.New("operator: a"), errors.New("b")), &stderr))
	require.Equal(t, "operator: a; b\n", stderr.String())
}
