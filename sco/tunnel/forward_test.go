package tunnel_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/mooringlib/mooring/sco/tunnel"
)

func TestRules(t *testing.T) {
	r := mustRules(t, "127.0.0.1:80", "127.0.0.2:1000-1999", "10.1.0.0/16:22", "[fd00::/8]:*", "[::1]:443", "Syslog.Example.COM:514", "*:7")
	for _, tc := range []struct {
		host  string
		port  uint16
		allow bool
	}{
		{"127.0.0.1", 80, true},
		{"::ffff:127.0.0.1", 80, true},
		{"127.0.0.1", 81, false},
		{"127.0.0.2", 999, false},
		{"127.0.0.2", 1000, true},
		{"127.0.0.2", 1999, true},
		{"127.0.0.2", 2000, false},
		{"10.1.255.255", 22, true},
		{"10.2.0.1", 22, false},
		{"fd00::1", 65535, true},
		{"fe00::1", 1, false},
		{"::1", 443, true},
		{"0:0:0:0:0:0:0:1", 443, true},
		{"::1%lo", 443, false},
		{"syslog.example.com", 514, true},
		{"syslog.example.com.", 514, false},
		{"localhost", 80, false},
		{"localhost", 7, true},
		{"", 7, true},
		{"", 80, false},
		{"127.1", 7, false},
		{"3f2a9c1b7d12", 7, true},
		{"2.example.2com", 7, true},
		{"example.com.", 7, true},
		{"127.0.0.0X1", 7, false},
		{"127.0x1.", 7, false},
		{"2130706433", 7, false},
		{".", 7, false},
		{"0x7f000001", 80, false},
		{"0177.0.0.1", 80, false},
		{"127.0.0.1 ", 80, false},
		{"a\x00b", 7, false},
		{strings.Repeat("a", 256), 7, false},
	} {
		require.Equal(t, tc.allow, r.Allows(tc.host, tc.port), "%q port %d", tc.host, tc.port)
	}
	require.False(t, tunnel.Rules{}.Allows("127.0.0.1", 80), "the zero value allows nothing")
}

func TestParseRulesNamesEveryBadRule(t *testing.T) {
	bad := []string{"", ":80", "x", "x:", "x:y", "x:65536", "x:-1", "x:2-1", "x:080", "::1:80", "[::1:80", "10.0.0.1/8:80", "10.0.0.0/33:80", "a b:1", "127.1:80", "fe80::1%eth0:1"}
	_, err := tunnel.ParseRules(bad...)
	for _, p := range bad[1:] {
		require.ErrorContains(t, err, p)
	}
	_, err = tunnel.ParseRules(make([]string, 1025)...)
	require.ErrorContains(t, err, "1025 rules")
}

func TestParseForward(t *testing.T) {
	f, err := tunnel.ParseForward("127.0.0.1:0=[::1]:80")
	require.NoError(t, err)
	require.Equal(t, tunnel.Forward{Listen: "127.0.0.1:0", Target: "[::1]:80"}, f)
	for _, s := range []string{"", "=", "a:1", "a:1=b", "a:1=b:0", "a:x=b:1", ":1=b:1", "a:1=b:1=c:1", strings.Repeat("a", 1000) + ":1=b:1"} {
		_, err := tunnel.ParseForward(s)
		require.Error(t, err, s)
	}
}

func FuzzParseRules(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "*:*", "[fd00::/8]:1-2", "name:7", "[::1", "10.0.0.0/8:22"} {
		f.Add(s, "127.0.0.1", uint16(80))
	}
	f.Fuzz(func(t *testing.T, pattern, host string, port uint16) {
		r, err := tunnel.ParseRules(pattern)
		if err == nil && r.Allows(host, port) && host != "" {
			if _, err := netip.ParseAddr(host); err != nil && len(host) > 255 {
				t.Errorf("%q allows a host that is too long", pattern)
			}
		}
	})
}

func FuzzParseForward(f *testing.F) {
	f.Add("127.0.0.1:0=127.0.0.1:80")
	f.Add("[::1]:1=name:2")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := tunnel.ParseForward(s)
		if err != nil {
			return
		}
		again, err := tunnel.ParseForward(v.Listen + "=" + v.Target)
		require.NoError(t, err)
		require.Equal(t, v, again)
	})
}

// FuzzWire feeds all decoders: what is accepted must encode to the same bytes.
func FuzzWire(f *testing.F) {
	f.Add(byte(0), ssh.Marshal(struct {
		H string
		P uint32
		O string
		Q uint32
	}{"127.0.0.1", 80, "::1", 1}))
	f.Add(byte(1), ssh.Marshal(struct {
		H string
		P uint32
	}{"localhost", 65535}))
	f.Add(byte(2), ssh.Marshal(struct {
		V uint32
		S uint64
		D []byte
	}{1, 5, make([]byte, 32)}))
	f.Add(byte(3), ssh.Marshal(struct {
		R byte
		T string
	}{3, "no space left"}))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		v, err := decode(kind, b)
		if err != nil {
			return
		}
		if again := ssh.Marshal(v); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, v, again)
		}
	})
}

func decode(kind byte, b []byte) (any, error) {
	switch kind % 4 {
	case 0:
		return tunnel.DecodeOpenTCP(b)
	case 1:
		return tunnel.DecodeForwardRequest(b)
	case 2:
		return tunnel.DecodeInitializeOpen(b)
	default:
		return tunnel.DecodeInitializeAnswer(b)
	}
}

func TestDecodersRefuseTruncationAndExcess(t *testing.T) {
	good := [][]byte{
		ssh.Marshal(struct {
			H string
			P uint32
			O string
			Q uint32
		}{"h", 1, "o", 2}),
		ssh.Marshal(struct {
			H string
			P uint32
		}{"h", 1}),
		ssh.Marshal(struct {
			V uint32
			S uint64
			D []byte
		}{1, 5, make([]byte, 32)}),
		ssh.Marshal(struct {
			R byte
			T string
		}{1, "t"}),
	}
	for kind, b := range good {
		_, err := decode(byte(kind), b)
		require.NoError(t, err)
		for i := range b {
			_, err := decode(byte(kind), b[:i])
			require.Error(t, err, "decoder %d, %d bytes", kind, i)
		}
		_, err = decode(byte(kind), append(bytes.Clone(b), 0))
		require.Error(t, err, "decoder %d, one byte more", kind)
	}
	for name, b := range map[string][]byte{
		"port": ssh.Marshal(struct {
			H string
			P uint32
			O string
			Q uint32
		}{"h", 65536, "o", 2}),
		"host": ssh.Marshal(struct {
			H string
			P uint32
			O string
			Q uint32
		}{strings.Repeat("h", 256), 1, "o", 2}),
	} {
		_, err := tunnel.DecodeOpenTCP(b)
		require.ErrorContains(t, err, "out of range", name)
	}
	for name, m := range map[string]struct {
		V uint32
		S uint64
		D []byte
	}{
		"version": {2, 5, make([]byte, 32)}, "size": {1, 16<<20 + 1, make([]byte, 32)}, "nothing": {1, 0, make([]byte, 32)}, "digest": {1, 5, nil},
	} {
		_, err := tunnel.DecodeInitializeOpen(ssh.Marshal(m))
		require.Error(t, err, name)
	}
}
