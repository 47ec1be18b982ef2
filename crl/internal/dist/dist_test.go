package dist_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/crl/internal/crltest"
	"github.com/mooringlib/mooring/crl/internal/dist"
)

func wrap(tag byte, parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return append([]byte{tag, byte(len(all))}, all...)
}

var (
	nameA    = wrap(0x30, wrap(0x31, wrap(0x30, []byte{6, 3, 0x55, 4, 3}, wrap(0x0c, []byte("A")))))
	nameAB   = wrap(0x30, wrap(0x31, wrap(0x30, []byte{6, 3, 0x55, 4, 3}, wrap(0x0c, []byte("A")))), wrap(0x31, wrap(0x30, []byte{6, 3, 0x55, 4, 11}, wrap(0x13, []byte("b")))))
	relative = wrap(0x30, []byte{6, 3, 0x55, 4, 11}, wrap(0x0c, []byte("B")))
)

func TestRelativeNameIsTheWholeOne(t *testing.T) {
	points, err := dist.Points(wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa1, relative)))))
	require.NoError(t, err)
	scope, err := dist.ParseScope(wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0xa4, nameAB)))))
	require.NoError(t, err)
	r, why := scope.Covers(nameA, &points[0], dist.Subject{Issuer: nameA})
	require.Empty(t, why)
	require.Equal(t, dist.AllReasons, r)
}

func TestMalformed(t *testing.T) {
	for _, der := range [][]byte{
		nil, {0x30, 0}, wrap(0x30, wrap(0x30)), wrap(0x30, wrap(0x30, wrap(0xa0))), append(wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0x86, []byte("u")))))), 0),
		wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0xa4, []byte{5, 0}))))), wrap(0x30, wrap(0x30, wrap(0xa2, wrap(0x86, []byte("u"))))),
		wrap(0x30, wrap(0x30, wrap(0x81, []byte{9, 1}))),
	} {
		_, err := dist.Points(der)
		require.Error(t, err, "%x", der)
	}
	for _, der := range [][]byte{nil, wrap(0x30, []byte{0x81, 1, 5}), wrap(0x30, []byte{0x86, 1, 0xff}), wrap(0x30, []byte{0x81, 1, 0xff}, []byte{0x82, 1, 0xff})} {
		_, err := dist.ParseScope(der)
		require.Error(t, err, "%x", der)
	}
}

func FuzzPoints(f *testing.F) {
	f.Add(wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa1, relative)))))
	f.Add(wrap(0x30, wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0x86, []byte("http://a/b")))), wrap(0x81, []byte{1, 6}), wrap(0xa2, wrap(0xa4, nameA)))))
	f.Add(crltest.Scope{URI: "http://a/b", CA: true}.Extension().Value)
	f.Fuzz(func(t *testing.T, data []byte) {
		points, err := dist.Points(data)
		if err == nil && len(points) == 0 {
			t.Fatal("no points and no error")
		}
		scope, err := dist.ParseScope(data)
		if err != nil {
			return
		}
		for i := range points {
			_, _ = scope.Covers(nameA, &points[i], dist.Subject{Issuer: nameA})
		}
	})
}
