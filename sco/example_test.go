package sco_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
)

// A conductor and a router in one process: the whole of an onboarding.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// The conductor. Its settings are asked for at every connection.
	settings := exampleSettings()
	registry, err := sco.NewRegistry(sco.RegistryConfig{Store: &sco.MemoryStore{}})
	if err != nil {
		log.Fatal(err)
	}
	err = registry.Configure(ctx, "branch-7", func(r *sco.Router, _ bool) error {
		r.Mode = sco.ModeWeak
		r.Nodes = []sco.Node{{Name: "node0", AssetID: "SN-1234", Role: "combo"}}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	conductor, err := sco.NewConductor(sco.ConductorConfig{Registry: registry, Settings: settings})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- conductor.Serve(ctx, ln) }()

	// A token brings the conductor's certificates and the secret to the router.
	issuer, err := sco.NewIssuer(sco.IssuerConfig{Registry: registry, Settings: settings, Addresses: []string{ln.Addr().String()}})
	if err != nil {
		log.Fatal(err)
	}
	token, err := issuer.IssueToken(ctx, "branch-7", 24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("a token never prints itself:", token)

	// The router.
	dir, err := os.MkdirTemp("", "router")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	enrollment, err := sco.Onboard(ctx, sco.OnboardConfig{Dir: dir, Token: token})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("router:", enrollment.Router, enrollment.AssetID, "host keys:", len(enrollment.HostKeys))

	r, err := registry.Get(ctx, "branch-7")
	if err != nil {
		log.Fatal(err)
	}
	s := r.Node("SN-1234").Status
	fmt.Println("conductor:", s.State, s.Evidence, s.Binding.Kind, s.TLSGroup)
	cancel()
	if err := <-served; err != nil {
		log.Fatal(err)
	}
	// Output:
	// a token never prints itself: (redacted)
	// router: branch-7 SN-1234 host keys: 1
	// conductor: keys-exchanged self-signed ssh-key X25519MLKEM768
}

// exampleSettings makes a CA, a certificate and an SSH host key; a real conductor
// reads them from its files.
func exampleSettings() sco.SettingsFunc {
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "conductor"}, NotAfter: time.Now().Add(time.Hour)}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		log.Fatal(err)
	}
	ca, _ = x509.ParseCertificate(caDER)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		log.Fatal(err)
	}
	leaf, _ = x509.ParseCertificate(leafDER)
	hostPub, _, _ := ed25519.GenerateKey(rand.Reader)
	host, err := ssh.NewPublicKey(hostPub)
	if err != nil {
		log.Fatal(err)
	}
	s := &sco.Settings{Certificate: leaf, Key: key, CA: ca, SSHHostKeys: []ssh.PublicKey{host}}
	return func(context.Context) (*sco.Settings, error) { return s, nil }
}
