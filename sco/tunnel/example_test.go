package tunnel_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

// directory answers from what onboarding has stored.
type directory map[string]tunnel.Peer

func (d directory) AuthorizeKey(_ context.Context, _ string, key ssh.PublicKey) (tunnel.Peer, error) {
	p, ok := d[string(key.Marshal())]
	if !ok {
		return tunnel.Peer{}, tunnel.ErrUnauthorized
	}
	return p, nil
}

// ready lets the example wait for the connection.
type ready chan struct{}

func (r ready) Connected(_ context.Context, s tunnel.Session) {
	fmt.Println("connected with", s.KeyExchange)
	close(r)
}

func (r ready) Disconnected(context.Context, tunnel.Session, error) {}

// A conductor serves, and a router keeps a tunnel to it. The keys are exchanged
// by package sco before.
func Example() {
	hostKey, routerKey := exampleKey(1), exampleKey(2)
	rules, err := tunnel.ParseRules("127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	server, err := tunnel.NewServer(tunnel.ServerConfig{
		HostKeys:   []ssh.Signer{hostKey},
		Authorizer: directory{string(routerKey.PublicKey().Marshal()): {AssetID: "A-1", Router: "branch", Node: "node0"}},
		Policy:     func(tunnel.Peer) tunnel.Policy { return tunnel.Policy{Dial: rules} },
	})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	up := make(ready)
	client, err := tunnel.NewClient(tunnel.ClientConfig{
		Addresses: []string{listener.Addr().String()},
		HostKeys:  []ssh.PublicKey{hostKey.PublicKey()},
		Signer:    routerKey,
		Observer:  up,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(ctx, listener) })
	wg.Go(func() { _ = client.Run(ctx) })
	<-up
	if _, err := client.Dial(ctx, "127.0.0.1:22"); err != nil {
		fmt.Println("port 22:", err)
	}
	cancel()
	wg.Wait()
	// Output:
	// connected with mlkem768x25519-sha256
	// port 22: tunnel: forward is not allowed: other side says "not allowed"
}

func exampleKey(i int) ssh.Signer {
	key, err := derived("example", i)
	if err != nil {
		log.Fatal(err)
	}
	return key
}
