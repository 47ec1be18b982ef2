//go:build !linux

package integrity_test

import "testing"

func fileSystems() map[string]func(t *testing.T) disk {
	return map[string]func(t *testing.T) disk{"fake kernel": newFakeDisk}
}
