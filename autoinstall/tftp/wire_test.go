package tftp_test

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall/tftp"
)

func TestRequestOnTheWire(t *testing.T) {
	require.Equal(t, "\x00\x01SN1.enc\x00octet\x00tsize\x000\x00blksize\x001468\x00", string(tftp.AppendRRQ("SN1.enc")))
}

func FuzzPacket(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", "\x00\x03", "\x00\x03\x00\x01", "\x00\x03\xff\xffdata", "\x00\x05\x00\x01not found\x00",
		"\x00\x05\x00\x01no end", "\x00\x05\x00\x01\xff\xfe\x1b[31m\x00", "\x00\x06blksize\x001468\x00tsize\x0012\x00",
		"\x00\x06windowsize\x0064\x00", "\x00\x06\x00\x00", "\x00\x06a\x00\x00", "\x00\x06tsize\x0099999999999999999999\x00",
		"\x00\x06" + strings.Repeat("a\x001\x00", 17), "\x00\x06BLKSIZE\x001\x00blksize\x001\x00", "\x00\x01f\x00octet\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tftp.Parse(b)
		if err != nil {
			return
		}
		switch p.Op {
		case 3:
			again := append([]byte{0, 3, byte(p.Block >> 8), byte(p.Block)}, p.Data...)
			if !bytes.Equal(again, b) {
				t.Fatalf("DATA reads back as %q", again)
			}
		case 5:
			if len(p.Message) > 3*200 || !utf8.ValidString(p.Message) || strings.ContainsRune(p.Message, 0) {
				t.Fatalf("message %q", p.Message)
			}
		case 6:
			if len(p.Options) > 16 {
				t.Fatalf("%d options", len(p.Options))
			}
			var again []byte
			for name, value := range p.Options {
				if name == "" || len(name) > 32 || value < 0 {
					t.Fatalf("option %q=%d", name, value)
				}
				again = append(append(append(append(again, name...), 0), strconv.FormatInt(value, 10)...), 0)
			}
			back, err := tftp.Parse(append([]byte{0, 6}, again...))
			if err != nil || len(back.Options) != len(p.Options) {
				t.Fatalf("OACK %q does not read back: %v", again, err)
			}
		default:
			t.Fatalf("opcode %d passed", p.Op)
		}
	})
}
