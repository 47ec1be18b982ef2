package secmem

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func alloc(n int) ([]byte, error) {
	size := (n + unix.Getpagesize() - 1) / unix.Getpagesize() * unix.Getpagesize()
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("secmem: map memory: %w", err)
	}
	err = errors.Join(
		advise("lock memory (is RLIMIT_MEMLOCK large enough?)", unix.Mlock(page)),
		advise("keep memory out of core dumps", unix.Madvise(page, unix.MADV_DONTDUMP)),
		advise("keep memory from a forked child", unix.Madvise(page, unix.MADV_WIPEONFORK)),
	)
	if err != nil {
		free(page)
		return nil, err
	}
	return page, nil
}

func advise(what string, err error) error {
	if err != nil {
		return fmt.Errorf("secmem: %s: %w", what, err)
	}
	return nil
}

func free(page []byte) {
	// Unmapping unlocks. It fails only for a slice that is not a mapping.
	_ = unix.Munmap(page)
}
