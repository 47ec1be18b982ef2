package integritytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"testing"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/cause"
)

// TestKeyWrapper checks the contract of integrity.KeyWrapper and of the optional
// powers that a wrapper has. open returns a wrapper of the same machine each
// time, as a process that starts anew has it; the machine was not committed to
// anything yet.
func TestKeyWrapper(t *testing.T, open func(t *testing.T) integrity.KeyWrapper) {
	ctx := context.Background()
	key, binding, other := random(), random(), random()
	wrapped, err := open(t).Wrap(ctx, key, binding)
	if err != nil {
		t.Fatalf("Wrap: %v", err)
	}
	unwrap := func(t *testing.T, wrapped, binding []byte) ([]byte, bool, error) {
		t.Helper()
		got := make([]byte, len(key))
		vouched, err := open(t).Unwrap(ctx, wrapped, binding, got)
		return got, vouched, err
	}
	t.Run("a new process unwraps", func(t *testing.T) {
		got, vouched, err := unwrap(t, wrapped, binding)
		if err != nil || !bytes.Equal(got, key) {
			t.Fatalf("Unwrap: right key is %v, error %v", bytes.Equal(got, key), err)
		}
		if vouched {
			t.Error("vouched before anything was committed")
		}
	})
	t.Run("wrapping again gives another form and both open", func(t *testing.T) {
		again, err := open(t).Wrap(ctx, key, binding)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(again, wrapped) {
			t.Error("the same form twice")
		}
		for _, w := range [][]byte{wrapped, again} {
			if got, _, err := unwrap(t, w, binding); err != nil || !bytes.Equal(got, key) {
				t.Errorf("Unwrap: right key is %v, error %v", bytes.Equal(got, key), err)
			}
		}
	})
	t.Run("the key is not in the wrapped form", func(t *testing.T) {
		if bytes.Contains(wrapped, key) {
			t.Error("the wrapped form holds the plain key")
		}
	})
	t.Run("another binding is refused", func(t *testing.T) {
		got, _, err := unwrap(t, wrapped, other)
		if cause.Of(err) != cause.ManifestForged {
			t.Errorf("error is %v, want %s", err, cause.ManifestForged)
		}
		if bytes.Equal(got, key) {
			t.Error("the key was given out")
		}
	})
	t.Run("damage is refused", func(t *testing.T) {
		step := max(1, len(wrapped)/64)
		for i := 0; i < len(wrapped); i += step {
			bad := bytes.Clone(wrapped)
			bad[i] ^= 0x10
			// Hints may change without harm; another key may never come out.
			if got, _, err := unwrap(t, bad, binding); err == nil && !bytes.Equal(got, key) {
				t.Errorf("byte %d changed: another key, and no error", i)
			}
		}
		for _, n := range []int{0, 1, len(wrapped) / 2, len(wrapped) - 1} {
			if _, _, err := unwrap(t, wrapped[:n], binding); cause.Of(err) != cause.RecordCorrupt {
				t.Errorf("cut to %d bytes: error is %v, want %s", n, err, cause.RecordCorrupt)
			}
		}
	})
	t.Run("wrong sizes are refused", func(t *testing.T) {
		if _, err := open(t).Wrap(ctx, key[:31], binding); err == nil {
			t.Error("Wrap took a key of 31 bytes")
		}
		if _, err := open(t).Unwrap(ctx, wrapped, binding[:31], make([]byte, 32)); err == nil {
			t.Error("Unwrap took a binding of 31 bytes")
		}
	})
	t.Run("a cancelled context is obeyed", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := open(t).Unwrap(ctx, wrapped, binding, make([]byte, 32)); err == nil {
			t.Error("Unwrap went on")
		}
	})
	t.Run("keys are made", func(t *testing.T) {
		source, ok := open(t).(integrity.KeySource)
		if !ok {
			t.Skip("not a KeySource")
		}
		a, b := make([]byte, 32), make([]byte, 32)
		if err := source.GenerateKey(ctx, a); err != nil {
			t.Fatal(err)
		}
		if err := source.GenerateKey(ctx, b); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(a, make([]byte, 32)) || bytes.Equal(a, b) {
			t.Error("keys are not random")
		}
	})
	t.Run("the anchor vouches", func(t *testing.T) { testAnchor(t, open, unwrap, wrapped, binding, other) })
}

func testAnchor(t *testing.T, open func(t *testing.T) integrity.KeyWrapper, unwrap func(*testing.T, []byte, []byte) ([]byte, bool, error), wrapped, binding, other []byte) {
	ctx := context.Background()
	anchor, ok := open(t).(integrity.Anchor)
	if !ok {
		t.Skip("not an Anchor")
	}
	if _, ok, err := anchor.Committed(ctx); ok || err != nil {
		t.Fatalf("before Commit: %v, %v", ok, err)
	}
	for range 2 {
		if err := anchor.Commit(ctx, [32]byte(binding)); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	fresh, _ := open(t).(integrity.Anchor)
	if got, ok, err := fresh.Committed(ctx); !ok || err != nil || got != [32]byte(binding) {
		t.Errorf("Committed: %x, %v, %v", got, ok, err)
	}
	if err := anchor.Commit(ctx, [32]byte(other)); cause.Of(err) != cause.ManifestForged {
		t.Errorf("Commit of another binding: error is %v, want %s", err, cause.ManifestForged)
	}
	if _, vouched, err := unwrap(t, wrapped, binding); err != nil || !vouched {
		t.Errorf("Unwrap after Commit: vouched is %v, error %v", vouched, err)
	}
	forged, err := open(t).Wrap(ctx, random(), other)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := unwrap(t, forged, other); cause.Of(err) != cause.ManifestForged {
		t.Errorf("a key that somebody wrapped with his own manifest: error is %v, want %s", err, cause.ManifestForged)
	}
}

func random() []byte {
	p := make([]byte, 32)
	_, _ = rand.Read(p)
	return p
}
