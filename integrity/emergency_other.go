//go:build !linux

package integrity

import (
	"errors"
	"fmt"
)

var errNoConsoles = fmt.Errorf("integrity: consoles: %w", errors.ErrUnsupported)

func kernelLog(string, string) error            { return errNoConsoles }
func systemConsoles() []string                  { return nil }
func writeConsole(string, string, string) error { return errNoConsoles }
