// Package mmap maps files for reading. Where there are no maps the file is read
// into memory instead.
package mmap

import (
	"fmt"
	"os"
	"runtime"
)

// Mapping is the content of a file. It stays valid as long as the Mapping is
// reachable, and is unmapped after that.
type Mapping struct {
	// Bytes is the content. It must not be written to.
	Bytes []byte
}

// Open maps the whole of a regular file. The file may be closed, renamed and
// removed afterwards, but must not be made shorter.
func Open(f *os.File) (*Mapping, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(int(info.Size())) {
		return nil, fmt.Errorf("%q can't be mapped", f.Name())
	}
	if info.Size() == 0 {
		return &Mapping{}, nil
	}
	data, unmap, err := mapFile(f, info.Size())
	if err != nil {
		return nil, err
	}
	m := &Mapping{data}
	runtime.AddCleanup(m, func(unmap func()) { unmap() }, unmap)
	return m, nil
}
