package integrity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kernelLog writes each line as one record at emergency level, the priority in
// front as the kernel's log device takes it.
func kernelLog(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("integrity: kernel log: %w", err)
	}
	defer f.Close()
	for line := range strings.Lines(text) {
		if _, err := f.WriteString("<0>integrity-handler: " + strings.TrimRight(line, "\n") + "\n"); err != nil {
			return fmt.Errorf("integrity: kernel log: %w", err)
		}
	}
	return nil
}

// systemConsoles are the kernel's consoles and the pseudo terminals.
func systemConsoles() []string {
	all := []string{"/dev/console"}
	if active, err := os.ReadFile("/sys/class/tty/console/active"); err == nil {
		for _, name := range strings.Fields(string(active)) {
			all = append(all, filepath.Join("/dev", filepath.Base(name)))
		}
	}
	pts, _ := filepath.Glob("/dev/pts/[0-9]*")
	all = append(all, pts...)
	slices.Sort(all)
	return slices.Compact(all)
}

func writeConsole(path, line, plain string) error {
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		line = plain
	}
	// A terminal that somebody stopped must not stop us, and one that we open
	// must not become ours.
	flags := os.O_WRONLY | os.O_APPEND | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
	if !strings.HasPrefix(filepath.Clean(path), "/dev/") {
		// A device that is missing must not become a plain file.
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EIO) {
			// A terminal without anybody at its other end.
			return nil
		}
		return fmt.Errorf("integrity: console: %w", err)
	}
	defer f.Close()
	_ = f.SetWriteDeadline(time.Now().Add(consoleTimeout))
	if _, err := f.WriteString(line); err != nil {
		return fmt.Errorf("integrity: console: %w", err)
	}
	return nil
}
