package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/mooringlib/mooring"
	"github.com/mooringlib/mooring/autoinstall/directory"
)

const (
	auditFile     = "events.jsonl"
	strangersFile = "strangers.jsonl"
	// maxStrangers bounds strangersFile, in bytes. There are two of that size.
	maxStrangers = 1 << 20
)

// auditFiles write events, each synced before the next. What somebody with a
// token did is kept for ever. What anybody can cause, without a token, goes to a
// file of its own that is bounded, and can't fill the disk.
type auditFiles struct {
	mu        sync.Mutex
	f         *os.File
	strangers *boundedFile
	logger    *slog.Logger
}

func openAudit(dir string, logger *slog.Logger) (*auditFiles, error) {
	f, err := appendTo(filepath.Join(dir, auditFile))
	if err != nil {
		return nil, err
	}
	strangers, err := openBounded(filepath.Join(dir, strangersFile), maxStrangers)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &auditFiles{f: f, strangers: strangers, logger: logger}, nil
}

func appendTo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// RecordEvent implements [mooring.EventSink].
func (a *auditFiles) RecordEvent(_ context.Context, e mooring.Event) {
	b, err := json.Marshal(e)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
	case e.Type == directory.EventUnauthorized:
		err = a.strangers.write(append(b, '\n'))
	default:
		if _, err = a.f.Write(append(b, '\n')); err == nil {
			err = a.f.Sync()
		}
	}
	if err != nil {
		a.logger.Error("the audit record can't be written", slog.Any("error", err))
	}
}

// Close closes the files.
func (a *auditFiles) Close() error {
	return errors.Join(a.f.Close(), a.strangers.f.Close())
}

// boundedFile keeps the newest of what is written: when the file is full it
// becomes path.old, in the place of the one before.
type boundedFile struct {
	path      string
	f         *os.File
	size, max int64
}

func openBounded(path string, max int64) (*boundedFile, error) {
	f, err := appendTo(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &boundedFile{path: path, f: f, size: info.Size(), max: max}, nil
}

func (b *boundedFile) write(line []byte) error {
	if b.size > 0 && b.size+int64(len(line)) > b.max {
		if err := os.Rename(b.path, b.path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := appendTo(b.path)
		if err != nil {
			return err
		}
		_ = b.f.Close()
		b.f, b.size = f, 0
	}
	n, err := b.f.Write(line)
	b.size += int64(n)
	return err
}
