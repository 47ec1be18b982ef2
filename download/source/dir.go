package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/download"
	"github.com/mooringlib/mooring/download/repo"
)

// Dir is a repository in a folder: a USB stick, a mounted share.
type Dir struct{ dir string }

// NewDir returns a source for the repository in dir. It does no I/O: a medium
// may be plugged in later.
func NewDir(dir string) (*Dir, error) {
	if dir == "" {
		return nil, errors.New("source: no directory is given")
	}
	return &Dir{dir: dir}, nil
}

func (d *Dir) open(path string) (*os.File, error) {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, fileError(err)
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(path))
	if err != nil {
		return nil, fileError(err)
	}
	return f, nil
}

func fileError(err error) error {
	fault := download.FaultConnection
	if errors.Is(err, fs.ErrNotExist) {
		fault = download.FaultNotFound
	}
	return &download.SourceError{Fault: fault, Err: err}
}

func (d *Dir) small(path string, limit int64) ([]byte, error) {
	f, err := d.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fileError(err)
	}
	if int64(len(data)) > limit {
		return nil, &download.SourceError{Fault: download.FaultProtocol, Err: fmt.Errorf("%s has more than %d bytes", path, limit)}
	}
	return data, nil
}

// Index implements [download.Fetcher].
func (d *Dir) Index(context.Context) (*repo.Index, error) {
	data, err := d.small(repo.IndexPath, repo.MaxIndexBytes)
	if err != nil {
		return nil, err
	}
	x, err := repo.ParseIndex(data)
	if err != nil {
		return nil, &download.SourceError{Fault: download.FaultProtocol, Err: err}
	}
	return x, nil
}

// ChunkList implements [download.Fetcher].
func (d *Dir) ChunkList(_ context.Context, m *repo.Manifest) ([]byte, error) {
	return d.small(m.ChunkListPath(), repo.MaxChunkListBytes)
}

// Open implements [download.Fetcher].
func (d *Dir) Open(_ context.Context, m *repo.Manifest, off, n int64) (*download.Body, error) {
	f, err := d.open(m.Path())
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != m.Size {
		err = &download.SourceError{Fault: download.FaultProtocol, Err: fmt.Errorf("its file has %d bytes, the manifest says %d", info.Size(), m.Size)}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	type body struct {
		io.Reader
		io.Closer
	}
	return &download.Body{ReadCloser: body{io.NewSectionReader(f, off, n), f}, Offset: off}, nil
}
