package main

import (
	"sync"
	"testing"

	"github.com/mooringlib/mooring/autoinstall/tftp/tftptest"
)

// fileServer is a TFTP server on the loopback whose files a test changes.
type fileServer struct {
	addr  string
	mu    sync.Mutex
	files map[string][]byte
}

func newFileServer(t testing.TB) *fileServer {
	f := &fileServer{files: map[string][]byte{}}
	s := tftptest.NewServer(t, tftptest.Config{MaxBlock: 1468, MaxWindow: 8, File: func(name string) ([]byte, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		b, ok := f.files[name]
		return b, ok
	}})
	f.addr = s.Addr().String()
	return f
}

// set changes a file; nil removes it.
func (f *fileServer) set(name string, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b == nil {
		delete(f.files, name)
		return
	}
	f.files[name] = b
}
