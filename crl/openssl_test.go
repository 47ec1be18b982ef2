package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl"
	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/internal/peer"
)

func pemOf(kind string, der ...[]byte) []byte {
	var b bytes.Buffer
	for _, d := range der {
		_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: d})
	}
	return b.Bytes()
}

// hierarchy is a random chain of authorities with lists, of which some are
// missing, expired, forged, for another scope or from another issuer, and some
// revoke members of the chain.
type hierarchy struct {
	chain []*x509.Certificate // leaf first, without the root
	root  *x509.Certificate
	lists [][]byte
	what  string
}

func randomHierarchy(t *testing.T, rng *rand.Rand, keys []*crltest.CA, n int) *hierarchy {
	opt := func(parent *crltest.CA) crltest.Options {
		return crltest.Options{Parent: parent, Key: keys[rng.IntN(len(keys))].Key, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0)}
	}
	ca := crltest.NewCA(t, fmt.Sprintf("root %d", n), opt(nil))
	h := &hierarchy{root: ca.Cert}
	depth := 1 + rng.IntN(3)
	for level := range depth {
		o := opt(ca)
		last := level == depth-1
		o.NotCA = last
		if rng.IntN(3) == 0 {
			o.Points = []string{shardA}
			if rng.IntN(3) == 0 {
				o.Points = []string{shardA, shardB}
			}
		}
		if !last && rng.IntN(12) == 0 {
			o.Usage = x509.KeyUsageCertSign
			h.what += fmt.Sprintf(" level %d may not sign lists;", level)
		}
		child := crltest.NewCA(t, fmt.Sprintf("level %d of %d", level, n), o)
		h.addLists(t, rng, ca, child.Cert, level, o.NotCA)
		h.chain = append([]*x509.Certificate{child.Cert}, h.chain...)
		ca = child
	}
	return h
}

// addLists makes the lists of one authority for one certificate below it.
func (h *hierarchy) addLists(t *testing.T, rng *rand.Rand, ca *crltest.CA, child *x509.Certificate, level int, user bool) {
	note := func(what string) { h.what += fmt.Sprintf(" level %d: %s;", level, what) }
	l := crltest.List{Number: 1 + rng.Int64N(100), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour), GeneralizedTime: false}
	for range rng.IntN(5) {
		l.Entries = append(l.Entries, crltest.Entry{Serial: crltest.NewSerial(rng), Time: time.Now().Add(-time.Hour), Reason: []int{0, 1, 4, 6, 9}[rng.IntN(5)]})
	}
	switch rng.IntN(22) {
	case 0, 1, 2:
		note("revoked")
		l.Entries = append(l.Entries, crltest.Entry{Serial: child.SerialNumber, Time: time.Now().Add(-time.Hour), Reason: []int{0, 1, 4, 6}[rng.IntN(4)], Generalized: rng.IntN(2) == 0})
	case 3:
		note("no list")
		return
	case 4:
		note("expired list")
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	case 5:
		note("bad signature")
		l.BadSignature = true
	case 6:
		note("unknown critical extension")
		l.Extensions = append(l.Extensions, pkixExtension{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
	case 7:
		note("list from the future")
		l.ThisUpdate, l.NextUpdate = time.Now().Add(2*time.Hour), time.Now().Add(3*time.Hour)
	case 8:
		uri := []string{shardA, shardB}[rng.IntN(2)]
		note("scope " + uri)
		l.Extensions = append(l.Extensions, crltest.Scope{URI: uri}.Extension())
	case 9:
		kind := rng.IntN(2) == 0
		note(fmt.Sprintf("only user %t, is user %t", kind, user))
		l.Extensions = append(l.Extensions, crltest.Scope{User: kind, CA: !kind}.Extension())
	case 10:
		note("issuer of another name")
		l.Issuer = child.RawSubject
	}
	h.lists = append(h.lists, ca.Sign(t, l))
}

// TestAgreementWithOpenSSL asks openssl verify and us about the same random
// hierarchies. Both must accept, or both refuse, and where openssl says
// "revoked" so do we.
func TestAgreementWithOpenSSL(t *testing.T) {
	openssl := peer.Need(t, "openssl")
	const count = 500
	rng := rand.New(rand.NewPCG(11, 12))
	keys := []*crltest.CA{
		crltest.NewCA(t, "k", crltest.Options{}), crltest.NewCA(t, "k", crltest.Options{}), crltest.NewCA(t, "k", crltest.Options{}),
		crltest.NewCA(t, "k", crltest.Options{Key: crltest.RSAKey(t, 2048)}),
	}
	hs := make([]*hierarchy, count)
	for i := range hs {
		hs[i] = randomHierarchy(t, rng, keys, i)
	}
	dir := t.TempDir()
	const batch = 25
	answers := make([]string, count)
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			for i := worker * batch; i < count; i += 2 * batch {
				askOpenSSL(t, openssl, dir, hs[i:i+batch], answers[i:i+batch])
			}
		})
	}
	wg.Wait()
	accepted, revoked, differ := 0, 0, 0
	for i, h := range hs {
		ok, isRevoked, why := askUs(t, h)
		theirs := answers[i] == "OK"
		if theirs {
			accepted++
		}
		if strings.Contains(answers[i], "certificate revoked") {
			revoked++
		}
		if ok != theirs || strings.Contains(answers[i], "certificate revoked") && !isRevoked {
			differ++
			t.Errorf("hierarchy %d (%s): accepted by us %t, by openssl %t\nours: %s\nopenssl: %s", i, h.what, ok, theirs, why, answers[i])
		}
	}
	t.Logf("%d hierarchies: %d accepted, %d revoked, %d differences", count, accepted, revoked, differ)
	require.Greater(t, accepted, count/8)
	require.Greater(t, revoked, count/8)
}

// askOpenSSL has one process verify several hierarchies, whose names are all
// different.
func askOpenSSL(t *testing.T, openssl, dir string, hs []*hierarchy, answers []string) {
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		t.Error(err)
		return
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Error(err)
		}
		return path
	}
	var roots, mids, lists [][]byte
	var leaves []string
	for i, h := range hs {
		roots = append(roots, h.root.Raw)
		for _, c := range h.chain[1:] {
			mids = append(mids, c.Raw)
		}
		lists = append(lists, h.lists...)
		leaves = append(leaves, write(fmt.Sprintf("leaf-%d", i), pemOf("CERTIFICATE", h.chain[0].Raw)))
	}
	args := []string{"verify", "-crl_check_all", "-extended_crl", "-CAfile", write("roots", pemOf("CERTIFICATE", roots...)),
		"-untrusted", write("mids", pemOf("CERTIFICATE", mids...)), "-CRLfile", write("lists", pemOf("X509 CRL", lists...))}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, openssl, append(args, leaves...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	errors := stderr.String()
	for i, leaf := range leaves {
		if strings.Contains("\n"+stdout.String(), "\n"+leaf+": OK\n") {
			answers[i] = "OK"
			continue
		}
		// What is wrong stands before the line that names the file.
		before, after, found := strings.Cut(errors, "error "+leaf+": verification failed\n")
		if !found {
			t.Errorf("openssl did not answer about %s: %s", leaf, stderr.String())
			return
		}
		answers[i], errors = "refused: "+before, after
	}
}

func askUs(t *testing.T, h *hierarchy) (ok, revoked bool, why string) {
	m, err := crl.New(crl.Config{Directory: fastDir(t), Issuers: []*x509.Certificate{h.root}, Intermediates: h.chain[1:]})
	require.NoError(t, err)
	require.NoError(t, m.Load(t.Context()))
	var log []string
	for i, l := range h.lists {
		if err := m.Import(t.Context(), bytes.NewReader(l), fmt.Sprint("list ", i)); err != nil {
			log = append(log, err.Error())
		}
	}
	ok = true
	// With -crl_check_all openssl asks about the root as well.
	all := append(slices.Clone(h.chain), h.root, h.root)
	for i, c := range all[:len(all)-1] {
		r := m.Check(c, all[i+1])
		ok = ok && r.Status == crl.StatusGood
		revoked = revoked || r.Status == crl.StatusRevoked || r.Status == crl.StatusOnHold
		log = append(log, fmt.Sprintf("%s: %s", r.Status, r.Why))
	}
	return ok, revoked, strings.Join(log, "\n")
}

// TestListsMadeByOpenSSL takes lists that openssl ca makes, in both encodings
// and with both kinds of key.
func TestListsMadeByOpenSSL(t *testing.T) {
	openssl := peer.Need(t, "openssl")
	for name, key := range map[string][]string{
		"RSA":   {"-newkey", "rsa:2048"},
		"ECDSA": {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run := func(args ...string) {
				cmd := exec.CommandContext(t.Context(), openssl, args...)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "openssl %v: %s", args, out)
			}
			writeFile(t, filepath.Join(dir, "ca.cnf"), []byte(opensslConfig))
			writeFile(t, filepath.Join(dir, "index.txt"), nil)
			writeFile(t, filepath.Join(dir, "serial"), []byte("1000\n"))
			writeFile(t, filepath.Join(dir, "crlnumber"), []byte("1000\n"))
			run(append([]string{"req", "-config", "ca.cnf", "-x509", "-nodes", "-days", "30", "-subj", "/O=Test/CN=openssl CA", "-extensions", "v3_ca", "-keyout", "ca.key", "-out", "ca.pem"}, key...)...)
			for _, leaf := range []string{"good", "bad"} {
				run("req", "-config", "ca.cnf", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN="+leaf, "-keyout", leaf+".key", "-out", leaf+".csr")
				run("ca", "-config", "ca.cnf", "-batch", "-notext", "-in", leaf+".csr", "-out", leaf+".pem")
			}
			run("ca", "-config", "ca.cnf", "-revoke", "bad.pem", "-crl_reason", "keyCompromise")
			run("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl.pem")
			run("crl", "-in", "ca.crl.pem", "-outform", "DER", "-out", "ca.crl")
			load := func(name string) *x509.Certificate {
				block, _ := pem.Decode(mustRead(t, filepath.Join(dir, name)))
				cert, err := x509.ParseCertificate(block.Bytes)
				require.NoError(t, err)
				return cert
			}
			for _, file := range []string{"ca.crl.pem", "ca.crl"} {
				m, err := crl.New(crl.Config{Directory: t.TempDir(), Issuers: []*x509.Certificate{load("ca.pem")}, URLs: []string{"file://" + filepath.Join(dir, file)}})
				require.NoError(t, err)
				require.NoError(t, m.Fetch(t.Context()))
				require.Equal(t, crl.StatusGood, m.Check(load("good.pem"), nil).Status)
				r := m.Check(load("bad.pem"), nil)
				require.Equal(t, crl.StatusRevoked, r.Status)
				require.Equal(t, "keyCompromise", r.Reason)
			}
		})
	}
}

const opensslConfig = `
[req]
distinguished_name = dn
[dn]
[v3_ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[ca]
default_ca = this
[this]
dir = .
database = $dir/index.txt
serial = $dir/serial
crlnumber = $dir/crlnumber
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
default_days = 30
default_crl_days = 7
crl_extensions = crl_ext
policy = any
[any]
commonName = supplied
[crl_ext]
authorityKeyIdentifier = keyid
`
