package name_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/name"
)

func wrap(tag byte, parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return append([]byte{tag, byte(len(all))}, all...)
}

func atv(kind, tag byte, value string) []byte {
	return wrap(0x30, []byte{6, 3, 0x55, 4, kind}, wrap(tag, []byte(value)))
}

func dn(rdns ...[]byte) []byte {
	var sets [][]byte
	for _, r := range rdns {
		sets = append(sets, wrap(0x31, r))
	}
	return wrap(0x30, sets...)
}

func TestEqual(t *testing.T) {
	base := dn(atv(10, 0x13, "Ex Ample"), atv(3, 0x0c, "Müller"))
	for what, c := range map[string]struct {
		other []byte
		equal bool
	}{
		"the same":              {dn(atv(10, 0x13, "Ex Ample"), atv(3, 0x0c, "Müller")), true},
		"other string types":    {dn(atv(10, 0x0c, "Ex Ample"), atv(3, 0x1e, "\x00M\x00\xfc\x00l\x00l\x00e\x00r")), true},
		"Latin-1":               {dn(atv(10, 0x16, "Ex Ample"), atv(3, 0x14, "M\xfcller")), true},
		"case and spaces":       {dn(atv(10, 0x13, " eX   aMPLE "), atv(3, 0x0c, "MÜLLER")), true},
		"other value":           {dn(atv(10, 0x13, "ExAmple"), atv(3, 0x0c, "Müller")), false},
		"other order":           {dn(atv(3, 0x0c, "Müller"), atv(10, 0x13, "Ex Ample")), false},
		"other attribute":       {dn(atv(11, 0x13, "Ex Ample"), atv(3, 0x0c, "Müller")), false},
		"one component":         {dn(append(atv(10, 0x13, "Ex Ample"), atv(3, 0x0c, "Müller")...)), false},
		"shorter":               {dn(atv(10, 0x13, "Ex Ample")), false},
		"no name":               {[]byte{5, 0}, false},
		"bytes behind the name": {append(dn(atv(10, 0x13, "Ex Ample"), atv(3, 0x0c, "Müller")), 0), false},
	} {
		require.Equal(t, c.equal, name.Equal(base, c.other), what)
	}
	require.True(t, name.Equal(dn(append(atv(10, 0x13, "a"), atv(3, 0x0c, "b")...)), dn(append(atv(3, 0x0c, "B"), atv(10, 0x0c, "A")...))), "order within a component")
}

func FuzzKeyOf(f *testing.F) {
	f.Add(dn(atv(10, 0x13, "Ex Ample"), atv(3, 0x1e, "\x00M")))
	f.Add(dn(atv(10, 28, "\x00\x00\x00M")))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := name.KeyOf(data)
		again, err2 := name.KeyOf(data)
		if k != again || (err == nil) != (err2 == nil) || !name.Equal(data, data) {
			t.Fatal("not stable")
		}
	})
}
