package sco_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco"
	"github.com/mooringlib/mooring/sco/tunnel"
)

// tunnelTakes tells what the tunnel's client says of an address.
func tunnelTakes(tb testing.TB, address string) error {
	tb.Helper()
	key := newSSHKey(tb)
	_, err := tunnel.NewClient(tunnel.ClientConfig{
		Addresses: []string{address}, HostKeys: []ssh.PublicKey{key.PublicKey()}, Signer: key,
	})
	return err
}

// What is accepted here is what the router will connect to.
func TestAddresses(t *testing.T) {
	for _, s := range []string{
		"192.0.2.1:933", "[2001:db8::1]:933", "[::ffff:192.0.2.1]:1", "a:1", "a.example.com.:65535", "3f2a9c1b7d12:933", "x_y-z.9a:1",
	} {
		require.NoError(t, sco.CheckAddress(s), s)
		require.NoError(t, tunnelTakes(t, s), s)
	}
	for _, s := range []string{
		"", ":1", "a", "a:", "a:0", "a:65536", "a:+1", "192.0.2.1:0", "[2001:db8::1]:0", "[fe80::1%eth0]:933", "2001:db8::1:933",
		"127.1:1", "2130706433:1", "0x7f000001:1", "0X7F.0x1:1", "192.0.2.256:1", "a.1.:1", ".:1", "a..:1", "a b:1", "ü:1", "[a]:1",
		strings.Repeat("a", 254) + ":1", strings.Repeat("a", 261) + ":1",
	} {
		require.Error(t, sco.CheckAddress(s), s)
	}
}
