package dhcp_test

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/autoinstall/dhcp"
)

func opt(code uint8, value string) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), []byte(value))
}

func packet(t testing.TB, change func(*dhcpv4.DHCPv4), opts ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New()
	require.NoError(t, err)
	p.OpCode = dhcpv4.OpcodeBootReply
	for _, o := range opts {
		p.UpdateOption(o)
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestAnswers(t *testing.T) {
	vendor := dhcp.VendorOptions{Server: 1, File: 2, URL: 3}
	tests := map[string]struct {
		p      *dhcpv4.DHCPv4
		vendor dhcp.VendorOptions
		want   []string
	}{
		"option 66 and 67":          {p: packet(t, nil, opt(66, "192.0.2.1"), opt(67, "SN1.enc")), want: []string{"tftp://192.0.2.1/SN1.enc"}},
		"texts as in C":             {p: packet(t, nil, opt(66, "192.0.2.1\x00"), opt(67, "SN1.enc\x00")), want: []string{"tftp://192.0.2.1/SN1.enc"}},
		"name of a server":          {p: packet(t, nil, opt(66, "tftp.example.net"), opt(67, "d/SN1.enc")), want: []string{"tftp://tftp.example.net/d/SN1.enc"}},
		"no file":                   {p: packet(t, nil, opt(66, "192.0.2.1")), want: []string{"tftp://192.0.2.1/SN1.enc", "tftp://192.0.2.1/SN1.cfg"}},
		"option 150 before 66":      {p: packet(t, nil, opt(66, "192.0.2.9"), opt(67, "f"), opt(150, "\xc0\x00\x02\x01\xc0\x00\x02\x02")), want: []string{"tftp://192.0.2.1/f", "tftp://192.0.2.2/f", "tftp://192.0.2.9/f"}},
		"the same server thrice":    {p: packet(t, func(p *dhcpv4.DHCPv4) { p.ServerIPAddr = net.IPv4(192, 0, 2, 1) }, opt(66, "192.0.2.1"), opt(67, "f"), opt(150, "\xc0\x00\x02\x01")), want: []string{"tftp://192.0.2.1/f"}},
		"siaddr and file":           {p: packet(t, func(p *dhcpv4.DHCPv4) { p.ServerIPAddr, p.BootFileName = net.IPv4(192, 0, 2, 1), "f" }), want: []string{"tftp://192.0.2.1/f"}},
		"sname":                     {p: packet(t, func(p *dhcpv4.DHCPv4) { p.ServerHostName, p.BootFileName = "boot", "f" }), want: []string{"tftp://boot/f"}},
		"option 67 before file":     {p: packet(t, func(p *dhcpv4.DHCPv4) { p.BootFileName = "old" }, opt(66, "h"), opt(67, "new")), want: []string{"tftp://h/new"}},
		"URL in option 67":          {p: packet(t, nil, opt(66, "h"), opt(67, "https://cfg.example.net/a/SN1.enc")), want: []string{"https://cfg.example.net/a/SN1.enc"}},
		"URL of a folder":           {p: packet(t, nil, opt(67, "http://cfg.example.net:8080/a/")), want: []string{"http://cfg.example.net:8080/a/SN1.enc", "http://cfg.example.net:8080/a/SN1.cfg"}},
		"option 43":                 {p: packet(t, nil, opt(43, "\x01\x092.2.2.2.9\x02\x01f\x00\xff")), vendor: vendor, want: nil},
		"option 43, server, file":   {p: packet(t, nil, opt(43, "\x01\x01h\x02\x01f\x00\xff")), vendor: vendor, want: []string{"tftp://h/f"}},
		"option 43, URL":            {p: packet(t, nil, opt(43, "\x03\x0ahttp://h/f")), vendor: vendor, want: []string{"http://h/f"}},
		"option 43 of others":       {p: packet(t, nil, opt(43, "\x01\xff")), want: nil},
		"nothing":                   {p: packet(t, nil), want: nil},
		"file with odd characters":  {p: packet(t, nil, opt(66, "h"), opt(67, "a b%2f?#.cfg")), want: []string{"tftp://h/a%20b%252f%3F%23.cfg"}},
		"more servers than we take": {p: packet(t, nil, opt(67, "f"), opt(150, strings.Repeat("\x0a\x00\x00\x01\x0a\x00\x00\x02", 30))), want: []string{"tftp://10.0.0.1/f", "tftp://10.0.0.2/f"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := dhcp.FromV4(tt.p, tt.vendor)
			if name == "option 43" {
				require.ErrorIs(t, err, autoinstall.ErrRefused, "2.2.2.2.9 is no host: %v", a)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want != nil, a.Usable())
			got, err := a.URLs("SN1.enc", "SN1.cfg")
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestHostileAnswersAreRefused(t *testing.T) {
	vendor := dhcp.VendorOptions{Server: 1, File: 2, URL: 3}
	for name, o := range map[string]dhcpv4.Option{
		"option 67: parent":           opt(67, "../../etc/passwd"),
		"option 67: parent inside":    opt(67, "a/../b"),
		"option 67: absolute":         opt(67, "/etc/shadow"),
		"option 67: backslash":        opt(67, `..\x`),
		"option 67: line end":         opt(67, "a\nb"),
		"option 67: escape":           opt(67, "\x1b[2J"),
		"option 67: zero inside":      opt(67, "a\x00b"),
		"option 67: not ASCII":        opt(67, "\xff\xfe"),
		"option 67: long":             opt(67, strings.Repeat("a", 256)),
		"option 67: only a dot":       opt(67, "."),
		"option 67: empty element":    opt(67, "a//b"),
		"option 67: scheme":           opt(67, "file:///etc/shadow"),
		"option 67: user":             opt(67, "http://root:pw@h/f"),
		"option 67: escaped parent":   opt(67, "http://h/%2e%2e/f"),
		"option 67: escaped zero":     opt(67, "http://h/%00"),
		"option 67: this device":      opt(67, "http://127.0.0.1/f"),
		"option 67: this device, v6":  opt(67, "http://[::1]:80/f"),
		"option 67: mapped":           opt(67, "http://[::ffff:127.0.0.1]/f"),
		"option 66: this device":      opt(66, "LocalHost"),
		"option 66: a path":           opt(66, "h/../.."),
		"option 66: a port":           opt(66, "h:69"),
		"option 66: space":            opt(66, "h x"),
		"option 66: line end":         opt(66, "h\r\n"),
		"option 66: long":             opt(66, strings.Repeat("a.", 127)+"a"),
		"option 66: broadcast":        opt(66, "255.255.255.255"),
		"option 66: multicast":        opt(66, "224.0.0.1"),
		"option 66: begins with dash": opt(66, "-h"),
		"option 150: cut":             opt(150, "\xc0\x00\x02"),
		"option 150: this device":     opt(150, "\x7f\x00\x00\x01"),
		"option 150: any":             opt(150, "\x00\x00\x00\x00"),
		"option 43: cut":              opt(43, "\x01\x09h"),
		"option 43: file":             opt(43, "\x02\x04../x"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dhcp.FromV4(packet(t, nil, opt(66, "192.0.2.1"), o), vendor)
			require.ErrorIs(t, err, autoinstall.ErrRefused)
			number, _, _ := strings.Cut(name, ":")
			require.ErrorContains(t, err, number)
			require.Less(t, len(err.Error()), 400)
			require.NotContains(t, err.Error(), "\n")
			require.NotContains(t, err.Error(), "\x1b")
		})
	}
}

func TestV6(t *testing.T) {
	msg := func(url string, params ...string) *dhcpv6.Message {
		m, err := dhcpv6.NewMessage()
		require.NoError(t, err)
		m.AddOption(dhcpv6.OptBootFileURL(url))
		if params != nil {
			m.AddOption(dhcpv6.OptBootFileParam(params...))
		}
		return m
	}
	a, err := dhcp.FromV6(msg("tftp://[2001:db8::23]/SN1.enc", "a", "b=c"))
	require.NoError(t, err)
	require.Equal(t, dhcp.Answer{URL: "tftp://[2001:db8::23]/SN1.enc", Params: []string{"a", "b=c"}}, a)
	urls, err := a.URLs("x")
	require.NoError(t, err)
	require.Equal(t, []string{"tftp://[2001:db8::23]/SN1.enc"}, urls)
	for _, m := range []*dhcpv6.Message{
		msg("tftp://[::1]/f"), msg("gopher://h/f"), msg("tftp://h/../f"), msg("tftp://h/a\x01"), msg("http://h/f", "a\nb"),
		msg("http://h/f", make([]string, 17)...),
	} {
		_, err := dhcp.FromV6(m)
		require.ErrorIs(t, err, autoinstall.ErrRefused)
	}
	none, err := dhcpv6.NewMessage()
	require.NoError(t, err)
	a, err = dhcp.FromV6(none)
	require.NoError(t, err)
	require.False(t, a.Usable())
}

// overloaded makes a packet with options in sname and file.
func overloaded(t testing.TB, overload byte, sname, file string) []byte {
	raw := packet(t, nil, opt(52, string([]byte{overload})), opt(53, "\x02")).ToBytes()
	copy(raw[44:108], sname)
	copy(raw[108:236], file)
	return raw
}

func TestOverload(t *testing.T) {
	const in66, in67, in150 = "\x42\x09192.0.2.7\xff", "\x43\x07SN1.enc\xff", "\x96\x04\xc0\x00\x02\x01\xff"
	tests := map[string]struct {
		raw  []byte
		want []string
	}{
		"file":           {overloaded(t, 1, "boot", in67), []string{"tftp://boot/SN1.enc"}},
		"sname":          {overloaded(t, 2, in66, "f"), []string{"tftp://192.0.2.7/f"}},
		"both":           {overloaded(t, 3, in66, in67), []string{"tftp://192.0.2.7/SN1.enc"}},
		"zeros in it":    {overloaded(t, 3, in150, "\x00\x00"+in67), []string{"tftp://192.0.2.1/SN1.enc"}},
		"long, in parts": {overloaded(t, 3, "\x43\x04.enc\x42\x01h\xff", "\x43\x03SN1\xff"), []string{"tftp://h/SN1.enc"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			merged, err := dhcp.Merge(tt.raw)
			require.NoError(t, err)
			p, err := dhcpv4.FromBytes(merged)
			require.NoError(t, err)
			a, err := dhcp.FromV4(p, dhcp.VendorOptions{})
			require.NoError(t, err)
			urls, err := a.URLs("x")
			require.NoError(t, err)
			require.Equal(t, tt.want, urls)
		})
	}
	plain := packet(t, nil, opt(66, "h")).ToBytes()
	same, err := dhcp.Merge(plain)
	require.NoError(t, err)
	require.Equal(t, plain, same)
	for name, raw := range map[string][]byte{
		"value 0":         overloaded(t, 0, "", ""),
		"value 4":         overloaded(t, 4, "", ""),
		"cut in file":     overloaded(t, 1, "", strings.Repeat("\x00", 126)+"\x43\x05"),
		"overload inside": overloaded(t, 1, "", "\x34\x01\x01\xff"),
		"short":           plain[:239],
		"no cookie":       bytes.Replace(plain, []byte{99, 130, 83, 99}, []byte{0, 0, 0, 0}, 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dhcp.Merge(raw)
			require.Error(t, err)
		})
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(overloaded(f, 3, "\x42\x09192.0.2.7\xff", "\x43\x07SN1.enc\xff"))
	f.Add(overloaded(f, 1, "boot", "\x43\x07../../a\xff"))
	f.Add(packet(f, nil, opt(66, "h"), opt(67, "a"), opt(150, "\x01\x02\x03\x04"), opt(43, "\x01\x01h\x02\x01f")).ToBytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		merged, err := dhcp.Merge(raw)
		if err != nil {
			return
		}
		again, err := dhcp.Merge(merged)
		if err != nil || !bytes.Equal(merged, again) {
			t.Fatalf("merged packet does not stay: %v", err)
		}
		p, err := dhcpv4.FromBytes(merged)
		if err != nil {
			return
		}
		a, err := dhcp.FromV4(p, dhcp.VendorOptions{Server: 1, File: 2, URL: 3})
		if err != nil {
			return
		}
		checkURLs(t, a)
	})
}

func FuzzText(f *testing.F) {
	f.Add("192.0.2.1", "SN1.enc", "\xc0\x00\x02\x01", "\x01\x01h")
	f.Add("h", "../x", "", "")
	f.Add("::1", "http://h/%2e%2e/", "\x7f\x00\x00\x01", "\x02\x02..")
	f.Add("h", "http://[fe80::1%25eth0]/f", "", "\x03\x0ahttp://h/f")
	f.Fuzz(func(t *testing.T, o66, o67, o150, o43 string) {
		a, err := dhcp.FromV4(packet(t, nil, opt(66, o66), opt(67, o67), opt(150, o150), opt(43, o43)), dhcp.VendorOptions{Server: 1, File: 2, URL: 3})
		if err != nil {
			if len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 }) {
				t.Fatalf("error %q", err)
			}
			return
		}
		checkURLs(t, a)
	})
}

// checkURLs states what holds for every URL that comes out of an answer.
func checkURLs(t *testing.T, a dhcp.Answer) {
	urls, err := a.URLs("SN1.enc", "SN1.cfg")
	if err != nil {
		t.Fatalf("%+v: %v", a, err)
	}
	if len(urls) > 16 {
		t.Fatalf("%d URLs", len(urls))
	}
	for _, text := range urls {
		u, err := autoinstall.CheckURL(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if strings.Contains(u.Path, "..") && strings.Contains("/"+u.Path+"/", "/../") || strings.ContainsAny(u.Path, "\x00\n\\") {
			t.Fatalf("%q passed", text)
		}
	}
}
