package window_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/download/internal/window"
)

func TestMoreThanHalfOfTen(t *testing.T) {
	w := window.New(10, 0.5)
	for i := range 5 {
		w.Record(true)
		require.False(t, w.Tripped(), i)
	}
	w.Record(true)
	require.True(t, w.Tripped(), "six failures are more than half of ten")

	w = window.New(10, 0.5)
	for range 20 {
		w.Record(true)
		w.Record(false)
		require.False(t, w.Tripped(), "half is not more than half")
	}
	require.Equal(t, 5, w.Failures())
	for range 10 {
		w.Record(false)
	}
	require.Zero(t, w.Failures(), "old failures are forgotten")
}

func TestOtherSizes(t *testing.T) {
	w := window.New(3, 0.9)
	w.Record(true)
	w.Record(true)
	require.False(t, w.Tripped())
	w.Record(true)
	require.True(t, w.Tripped())
}
